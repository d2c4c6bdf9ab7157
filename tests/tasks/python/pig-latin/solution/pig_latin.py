import re


def translate(text):
    return " ".join(translate_word(word) for word in text.split())


def translate_word(word):
    if re.match("[aeiou]|xr|yt", word):
        return word + "ay"
    start = re.match("[^aeiou]*?qu|y?[^aeiouy]*", word)[0]
    return word[len(start):] + start + "ay"
