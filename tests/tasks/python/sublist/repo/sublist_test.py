import unittest

from sublist import compare


class SublistTest(unittest.TestCase):
    def test_equal(self):
        self.assertEqual(compare([], []), "equal")
        self.assertEqual(compare([1, 2, 3], [1, 2, 3]), "equal")

    def test_sublist(self):
        self.assertEqual(compare([], [1]), "sublist")
        self.assertEqual(compare([0, 1, 2], [0, 1, 2, 3]), "sublist")
        self.assertEqual(compare([1, 2, 5], [0, 1, 2, 3, 1, 2, 5, 6]), "sublist")

    def test_superlist(self):
        self.assertEqual(compare([3, 4, 5], [4]), "superlist")
        self.assertEqual(compare([1, 2, 3], []), "superlist")

    def test_unequal(self):
        self.assertEqual(compare([1, 3], [1, 2, 3]), "unequal")
        self.assertEqual(compare([1, 2, 3], [1, 3]), "unequal")
        self.assertEqual(compare([12], [1, 2]), "unequal")


if __name__ == "__main__":
    unittest.main()
