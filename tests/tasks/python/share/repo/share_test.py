import unittest

from share import share


class ShareTest(unittest.TestCase):
    def test_nobody(self):
        self.assertEqual(share(), "One for you, one for me.")

    def test_somebody(self):
        self.assertEqual(share("Ada"), "One for Ada, one for me.")


if __name__ == "__main__":
    unittest.main()
