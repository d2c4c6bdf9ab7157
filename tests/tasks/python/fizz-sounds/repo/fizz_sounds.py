def sound(number):
    pass
