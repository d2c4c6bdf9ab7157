def rows(count):
    if count < 0:
        raise ValueError("number of rows is negative")
    triangle = []
    for _ in range(count):
        last = triangle[-1] if triangle else []
        triangle.append([a + b for a, b in zip([0] + last, last + [0])] if last else [1])
    return triangle
