def sound(number):
    said = "".join(word for n, word in ((3, "Pling"), (5, "Plang"), (7, "Plong")) if number % n == 0)
    return said or str(number)
