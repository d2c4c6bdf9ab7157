import unittest

from clock import Clock


class ClockTest(unittest.TestCase):
    def test_shows(self):
        self.assertEqual(str(Clock(8, 0)), "08:00")
        self.assertEqual(str(Clock(24, 0)), "00:00")
        self.assertEqual(str(Clock(100, 0)), "04:00")
        self.assertEqual(str(Clock(0, 1723)), "04:43")
        self.assertEqual(str(Clock(0, -1)), "23:59")
        self.assertEqual(str(Clock(-25, -160)), "20:20")

    def test_adds(self):
        self.assertEqual(str(Clock(10, 0) + 3), "10:03")
        self.assertEqual(str(Clock(23, 59) + 2), "00:01")
        self.assertEqual(str(Clock(1, 1) + 3500), "11:21")

    def test_subtracts(self):
        self.assertEqual(str(Clock(10, 3) - 30), "09:33")
        self.assertEqual(str(Clock(0, 3) - 4), "23:59")

    def test_equals(self):
        self.assertEqual(Clock(15, 37), Clock(39, 37))
        self.assertNotEqual(Clock(15, 36), Clock(15, 37))


if __name__ == "__main__":
    unittest.main()
