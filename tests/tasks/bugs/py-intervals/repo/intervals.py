"""Closed intervals of whole numbers, as pairs (start, end)."""


def overlaps(a, b):
    """Whether two intervals have a number in common."""
    return a[0] <= b[1] and b[0] <= a[1]


def merge(intervals):
    """The same numbers in as few intervals as possible, in order."""
    merged = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    return merged


def covered(intervals):
    """How many numbers lie in at least one interval."""
    return sum(end - start + 1 for start, end in merge(intervals))
