"""The stock of a small shop."""


class Inventory:
    def __init__(self):
        self.stock = {}
        self.history = []

    def receive(self, item, count):
        """Goods come in."""
        if count <= 0:
            raise ValueError("count must be positive")
        self.stock[item] = self.stock.get(item, 0) + count
        self.history.append(("receive", item, count))

    def sell(self, item, count):
        """Goods go out; there must be enough of them."""
        if self.stock.get(item, 0) < count:
            raise ValueError(f"only {self.stock.get(item, 0)} of {item} left")
        self.stock[item] -= count
        self.history.append(("sell", item, count))

    def give_back(self, item, count):
        """A customer brings back what they bought."""
        sold = sum(n for what, name, n in self.history if what == "sell" and name == item)
        if count > sold:
            raise ValueError("more came back than was sold")
        self.stock[item] += count
        self.history.append(("give_back", item, count))

    def total(self):
        return sum(self.stock.values())
