import unittest

from say_number import say


class SayNumberTest(unittest.TestCase):
    def test_small(self):
        self.assertEqual(say(0), "zero")
        self.assertEqual(say(14), "fourteen")
        self.assertEqual(say(20), "twenty")
        self.assertEqual(say(22), "twenty-two")

    def test_hundreds(self):
        self.assertEqual(say(100), "one hundred")
        self.assertEqual(say(123), "one hundred twenty-three")

    def test_large(self):
        self.assertEqual(say(1000), "one thousand")
        self.assertEqual(say(1002345), "one million two thousand three hundred forty-five")
        self.assertEqual(say(987654321), "nine hundred eighty-seven million six hundred fifty-four thousand three hundred twenty-one")

    def test_range(self):
        for number in [-1, 1_000_000_000]:
            with self.assertRaises(ValueError) as caught:
                say(number)
            self.assertEqual(str(caught.exception), "input out of range")


if __name__ == "__main__":
    unittest.main()
