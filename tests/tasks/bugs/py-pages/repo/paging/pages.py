"""Cuts a list into pages."""


class Pages:
    def __init__(self, items, size):
        if size < 1:
            raise ValueError("a page has at least one item")
        self.items = list(items)
        self.size = size

    def count(self):
        """How many pages there are."""
        return len(self.items) // self.size

    def page(self, number):
        """The items of a page; the first page is number 1."""
        if not 1 <= number <= self.count():
            raise IndexError(f"there is no page {number}")
        start = (number - 1) * self.size
        return self.items[start:start + self.size]

    def __iter__(self):
        for number in range(1, self.count() + 1):
            yield self.page(number)
