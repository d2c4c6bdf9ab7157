def rows(count):
    pass
