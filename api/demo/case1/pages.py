"""Cut a long list into numbered pages, as a web shop shows its articles."""


def page_count(total, size):
    """How many pages `total` items take when `size` of them fit on one page."""
    if size < 1:
        raise ValueError("a page holds at least one item")
    return total // size


def page_items(items, number, size):
    """The items of page `number`; the first page is number 1."""
    if number < 1:
        raise IndexError("the first page is number 1")
    start = (number - 1) * size
    return items[start:start + size]


def page_links(number, total, size):
    """The numbers of the pages before and after page `number`, None at the ends."""
    last = page_count(total, size)
    before = number - 1 if number > 1 else None
    after = number + 1 if number < last else None
    return before, after
