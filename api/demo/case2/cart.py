"""A shopping cart: what it holds and what it costs, in cents."""

from shipping import shipping_cost


class Cart:
    """Articles with their prices and amounts."""

    def __init__(self):
        self.lines = []

    def add(self, name, price, amount=1):
        """Put `amount` pieces of an article into the cart."""
        if amount < 1:
            raise ValueError("add at least one piece")
        self.lines.append((name, price, amount))

    def subtotal(self):
        """The price of all articles together."""
        return sum(price * amount for _, price, amount in self.lines)

    def discount(self):
        """Ten per cent of the subtotal for three or more pieces."""
        pieces = sum(amount for _, _, amount in self.lines)
        if pieces >= 3:
            return self.subtotal() // 10
        return 0

    def total(self):
        """What the customer pays."""
        goods = self.subtotal() - self.discount()
        return goods + shipping_cost(goods)
