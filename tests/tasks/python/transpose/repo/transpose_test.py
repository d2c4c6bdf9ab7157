import unittest

from transpose import transpose


class TransposeTest(unittest.TestCase):
    def test_simple(self):
        self.assertEqual(transpose(""), "")
        self.assertEqual(transpose("A1"), "A\n1")
        self.assertEqual(transpose("ABC\n123"), "A1\nB2\nC3")

    def test_uneven(self):
        self.assertEqual(transpose("ABC\nDE"), "AD\nBE\nC")
        self.assertEqual(transpose("AB\nDEF"), "AD\nBE\n F")
        self.assertEqual(transpose("T\nEE\nAAA\nSSSS"), "TEAS\n EAS\n  AS\n   S")


if __name__ == "__main__":
    unittest.main()
