def find(numbers, wanted):
    pass
