import unittest

from robot import Robot


class RobotTest(unittest.TestCase):
    def test_begins(self):
        robot = Robot()
        self.assertEqual(robot.direction, "north")
        self.assertEqual(robot.place, (0, 0))

    def test_turns(self):
        robot = Robot("north", 0, 0)
        robot.move("R")
        self.assertEqual(robot.direction, "east")
        robot.move("LL")
        self.assertEqual(robot.direction, "west")

    def test_advances(self):
        robot = Robot("south", 2, 3)
        robot.move("AA")
        self.assertEqual(robot.place, (2, 1))

    def test_walks(self):
        robot = Robot("north", 7, 3)
        robot.move("RAALAL")
        self.assertEqual(robot.place, (9, 4))
        self.assertEqual(robot.direction, "west")
        robot = Robot("east", 2, -7)
        robot.move("RRAAAAALA")
        self.assertEqual(robot.place, (-3, -8))
        self.assertEqual(robot.direction, "south")


if __name__ == "__main__":
    unittest.main()
