import unittest

from words import count_words, most_common, words


class Words(unittest.TestCase):
    def test_punctuation_is_no_word(self):
        self.assertEqual(words("stop, look; listen!"), ["stop", "look", "listen"])

    def test_words_are_in_lower_case(self):
        self.assertEqual(words("The Old Man"), ["the", "old", "man"])


class CountWords(unittest.TestCase):
    def test_each_word_is_counted(self):
        self.assertEqual(count_words("tick tock tick"), {"tick": 2, "tock": 1})

    def test_case_makes_no_difference(self):
        self.assertEqual(count_words("Rain rain RAIN"), {"rain": 3})

    def test_an_empty_text_has_no_words(self):
        self.assertEqual(count_words(""), {})


class MostCommon(unittest.TestCase):
    def test_the_most_frequent_comes_first(self):
        self.assertEqual(most_common("b a b c b a", 2), [("b", 3), ("a", 2)])

    def test_equal_counts_are_sorted_by_the_alphabet(self):
        self.assertEqual(most_common("pear fig fig pear kiwi", 2), [("fig", 2), ("pear", 2)])


if __name__ == "__main__":
    unittest.main()
