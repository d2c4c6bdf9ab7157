ITEMS = ["eggs", "peanuts", "shellfish", "strawberries", "tomatoes", "chocolate", "pollen", "cats"]


class Allergies:
    def __init__(self, score):
        self.score = score

    def allergic_to(self, item):
        return item in self.list

    @property
    def list(self):
        return [item for i, item in enumerate(ITEMS) if self.score >> i & 1]
