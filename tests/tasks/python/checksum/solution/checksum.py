def valid(text):
    digits = text.replace(" ", "")
    if len(digits) < 2 or not digits.isdecimal():
        return False
    total = 0
    for i, digit in enumerate(reversed(digits)):
        n = int(digit) * (2 if i % 2 else 1)
        total += n - 9 if n > 9 else n
    return total % 10 == 0
