import unittest

from matrix_paths import saddle_points


class MatrixPathsTest(unittest.TestCase):
    def test_one(self):
        self.assertEqual(saddle_points([[9, 8, 7], [5, 3, 2], [6, 6, 7]]), [(2, 1)])

    def test_none(self):
        self.assertEqual(saddle_points([]), [])
        self.assertEqual(saddle_points([[1, 2, 3], [3, 1, 2], [2, 3, 1]]), [])

    def test_several(self):
        self.assertEqual(saddle_points([[4, 5, 4], [3, 5, 5], [1, 5, 4]]), [(1, 2), (2, 2), (3, 2)])

    def test_irregular(self):
        with self.assertRaises(ValueError) as caught:
            saddle_points([[3, 2, 1], [0, 1]])
        self.assertEqual(str(caught.exception), "irregular matrix")


if __name__ == "__main__":
    unittest.main()
