import unittest

from run_length import decode, encode


class RunLengthTest(unittest.TestCase):
    def test_encode(self):
        self.assertEqual(encode(""), "")
        self.assertEqual(encode("XYZ"), "XYZ")
        self.assertEqual(encode("AABBBCCCC"), "2A3B4C")
        self.assertEqual(encode("  hsqq qww  "), "2 hs2q q2w2 ")

    def test_decode(self):
        self.assertEqual(decode("2A3B4C"), "AABBBCCCC")
        self.assertEqual(decode("12W"), "WWWWWWWWWWWW")
        self.assertEqual(decode(""), "")

    def test_both_ways(self):
        self.assertEqual(decode(encode("zzz ZZ  zZ")), "zzz ZZ  zZ")


if __name__ == "__main__":
    unittest.main()
