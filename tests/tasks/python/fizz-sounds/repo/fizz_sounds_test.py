import unittest

from fizz_sounds import sound


class FizzSoundsTest(unittest.TestCase):
    def test_digits(self):
        self.assertEqual(sound(1), "1")
        self.assertEqual(sound(34), "34")

    def test_one(self):
        self.assertEqual(sound(9), "Pling")
        self.assertEqual(sound(25), "Plang")
        self.assertEqual(sound(28), "Plong")

    def test_several(self):
        self.assertEqual(sound(30), "PlingPlang")
        self.assertEqual(sound(105), "PlingPlangPlong")


if __name__ == "__main__":
    unittest.main()
