import unittest

from triangle_rows import rows


class TriangleRowsTest(unittest.TestCase):
    def test_rows(self):
        self.assertEqual(rows(0), [])
        self.assertEqual(rows(1), [[1]])
        self.assertEqual(rows(4), [[1], [1, 1], [1, 2, 1], [1, 3, 3, 1]])
        self.assertEqual(rows(10)[-1], [1, 9, 36, 84, 126, 126, 84, 36, 9, 1])

    def test_negative(self):
        with self.assertRaises(ValueError) as caught:
            rows(-1)
        self.assertEqual(str(caught.exception), "number of rows is negative")


if __name__ == "__main__":
    unittest.main()
