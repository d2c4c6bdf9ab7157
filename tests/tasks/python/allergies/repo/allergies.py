class Allergies:
    def __init__(self, score):
        pass

    def allergic_to(self, item):
        pass

    @property
    def list(self):
        pass
