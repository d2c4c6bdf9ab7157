def compare(a, b):
    if a == b:
        return "equal"
    if within(a, b):
        return "sublist"
    if within(b, a):
        return "superlist"
    return "unequal"


def within(a, b):
    return any(b[i:i + len(a)] == a for i in range(len(b) - len(a) + 1))
