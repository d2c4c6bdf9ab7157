import re


def count_words(text):
    counts = {}
    for word in re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.lower()):
        counts[word] = counts.get(word, 0) + 1
    return counts
