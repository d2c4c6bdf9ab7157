import unittest

from allergies import Allergies


class AllergiesTest(unittest.TestCase):
    def test_none(self):
        self.assertEqual(Allergies(0).list, [])
        self.assertFalse(Allergies(0).allergic_to("eggs"))

    def test_some(self):
        self.assertEqual(Allergies(34).list, ["peanuts", "chocolate"])
        self.assertEqual(Allergies(257).list, ["eggs"])

    def test_all(self):
        self.assertEqual(Allergies(509).list, ["eggs", "shellfish", "strawberries", "tomatoes", "chocolate", "pollen", "cats"])
        self.assertTrue(Allergies(5).allergic_to("shellfish"))


if __name__ == "__main__":
    unittest.main()
