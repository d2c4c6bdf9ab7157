"""Count the words of a text."""

import re

WORD = re.compile(r"[A-Za-z']+")


def words(text):
    """The words of `text` in the order they come, in lower case."""
    return [match.group() for match in WORD.finditer(text)]


def count_words(text):
    """How often each word comes."""
    counts = {}
    for word in words(text):
        counts[word] = counts.get(word, 0) + 1
    return counts


def most_common(text, n):
    """The `n` words that come most often, the most frequent first; words that come equally often by the alphabet."""
    counts = count_words(text)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ranked[:n]
