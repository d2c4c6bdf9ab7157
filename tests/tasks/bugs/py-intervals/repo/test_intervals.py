import unittest

from intervals import covered, merge, overlaps


class IntervalsTest(unittest.TestCase):
    def test_overlaps(self):
        self.assertTrue(overlaps((1, 5), (5, 9)))
        self.assertFalse(overlaps((1, 4), (5, 9)))

    def test_apart(self):
        self.assertEqual(merge([(5, 6), (1, 2)]), [(1, 2), (5, 6)])

    def test_chain(self):
        self.assertEqual(merge([(1, 4), (3, 6), (6, 9)]), [(1, 9)])

    def test_one_within_another(self):
        self.assertEqual(merge([(1, 10), (2, 3), (8, 12)]), [(1, 12)])

    def test_covered(self):
        self.assertEqual(covered([(1, 10), (2, 3)]), 10)


if __name__ == "__main__":
    unittest.main()
