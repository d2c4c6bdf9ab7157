import re


def encode(text):
    return re.sub(r"(.)\1*", lambda run: (str(len(run[0])) if len(run[0]) > 1 else "") + run[1], text)


def decode(text):
    return re.sub(r"(\d+)(\D)", lambda run: int(run[1]) * run[2], text)
