WAYS = [("north", 0, 1), ("east", 1, 0), ("south", 0, -1), ("west", -1, 0)]


class Robot:
    def __init__(self, direction="north", x=0, y=0):
        self.direction = direction
        self.place = (x, y)

    def move(self, instructions):
        for instruction in instructions:
            at = [name for name, _, _ in WAYS].index(self.direction)
            if instruction == "A":
                self.place = (self.place[0] + WAYS[at][1], self.place[1] + WAYS[at][2])
            else:
                self.direction = WAYS[(at + (1 if instruction == "R" else 3)) % 4][0]
