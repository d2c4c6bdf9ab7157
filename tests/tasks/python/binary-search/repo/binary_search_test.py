import unittest

from binary_search import find


class BinarySearchTest(unittest.TestCase):
    def test_finds(self):
        self.assertEqual(find([6], 6), 0)
        self.assertEqual(find([1, 3, 4, 6, 8, 9, 11], 1), 0)
        self.assertEqual(find([1, 3, 4, 6, 8, 9, 11], 11), 6)
        self.assertEqual(find([1, 3, 5, 8, 13, 21, 34, 55, 89, 144], 21), 5)

    def test_misses(self):
        for numbers, wanted in [([1, 3, 4], 2), ([1, 3, 4], 0), ([1, 3, 4], 9), ([], 1)]:
            with self.assertRaises(ValueError) as caught:
                find(numbers, wanted)
            self.assertEqual(str(caught.exception), "not found")

    def test_halves(self):
        class Counting(list):
            reads = 0

            def __getitem__(self, place):
                Counting.reads += 1
                return super().__getitem__(place)

        self.assertEqual(find(Counting(range(10_000)), 7_777), 7_777)
        self.assertLess(Counting.reads, 60)


if __name__ == "__main__":
    unittest.main()
