import unittest

from anagrams import anagrams


class AnagramsTest(unittest.TestCase):
    def test_some(self):
        self.assertEqual(anagrams("listen", ["enlists", "google", "inlets", "silent"]), ["inlets", "silent"])
        self.assertEqual(anagrams("good", ["dog", "goody"]), [])

    def test_case(self):
        self.assertEqual(anagrams("Orchestra", ["cashregister", "Carthorse", "radishes"]), ["Carthorse"])

    def test_not_itself(self):
        self.assertEqual(anagrams("BANANA", ["banana", "Banana"]), [])
        self.assertEqual(anagrams("nose", ["Eons", "ONES"]), ["Eons", "ONES"])


if __name__ == "__main__":
    unittest.main()
