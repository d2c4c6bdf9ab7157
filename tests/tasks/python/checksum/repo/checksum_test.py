import unittest

from checksum import valid


class ChecksumTest(unittest.TestCase):
    def test_valid(self):
        for text in ["059", "59", "4539 3195 0343 6467", "095 245 88", "234 567 891 234"]:
            self.assertTrue(valid(text), text)

    def test_invalid(self):
        for text in ["1", "0", "8273 1232 7352 0569", "055 444 286", "059a", "055-444-285", " 0", ""]:
            self.assertFalse(valid(text), text)


if __name__ == "__main__":
    unittest.main()
