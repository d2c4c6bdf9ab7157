def anagrams(word, candidates):
    pass
