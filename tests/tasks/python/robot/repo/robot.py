class Robot:
    def __init__(self, direction="north", x=0, y=0):
        pass

    def move(self, instructions):
        pass
