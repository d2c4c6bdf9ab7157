def balanced(text):
    pairs = {")": "(", "]": "[", "}": "{"}
    opened = []
    for c in text:
        if c in pairs.values():
            opened.append(c)
        elif c in pairs and (not opened or opened.pop() != pairs[c]):
            return False
    return not opened
