import unittest

from change import change


class ChangeTest(unittest.TestCase):
    def test_gives(self):
        self.assertEqual(change([1, 5, 10, 25], 25), [25])
        self.assertEqual(change([1, 5, 10, 25, 100], 15), [5, 10])
        self.assertEqual(change([1, 4, 15, 20, 50], 23), [4, 4, 15])
        self.assertEqual(change([1, 5, 10, 21, 25], 63), [21, 21, 21])
        self.assertEqual(change([4, 5], 27), [4, 4, 4, 5, 5, 5])
        self.assertEqual(change([1, 5], 0), [])

    def test_cannot(self):
        for coins, amount, message in [([5, 10], 3, "no combination"), ([1, 2], -5, "negative amount")]:
            with self.assertRaises(ValueError) as caught:
                change(coins, amount)
            self.assertEqual(str(caught.exception), message)


if __name__ == "__main__":
    unittest.main()
