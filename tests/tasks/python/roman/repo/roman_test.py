import unittest

from roman import from_roman, to_roman


class RomanTest(unittest.TestCase):
    def test_write(self):
        self.assertEqual(to_roman(1), "I")
        self.assertEqual(to_roman(4), "IV")
        self.assertEqual(to_roman(9), "IX")
        self.assertEqual(to_roman(1990), "MCMXC")
        self.assertEqual(to_roman(2008), "MMVIII")
        self.assertEqual(to_roman(3999), "MMMCMXCIX")

    def test_read(self):
        self.assertEqual(from_roman("XLII"), 42)
        self.assertEqual(from_roman("CDXLIV"), 444)

    def test_both_ways(self):
        for n in range(1, 4000):
            self.assertEqual(from_roman(to_roman(n)), n)


if __name__ == "__main__":
    unittest.main()
