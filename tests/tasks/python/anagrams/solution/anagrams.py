def anagrams(word, candidates):
    word = word.lower()
    return [c for c in candidates if c.lower() != word and sorted(c.lower()) == sorted(word)]
