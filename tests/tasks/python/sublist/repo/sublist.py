def compare(a, b):
    pass
