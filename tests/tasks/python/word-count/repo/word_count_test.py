import unittest

from word_count import count_words


class WordCountTest(unittest.TestCase):
    def test_words(self):
        self.assertEqual(count_words("one fish two fish"), {"one": 1, "fish": 2, "two": 1})

    def test_case_and_marks(self):
        self.assertEqual(count_words("go Go GO, stop!"), {"go": 3, "stop": 1})
        self.assertEqual(count_words("one,two,three:4"), {"one": 1, "two": 1, "three": 1, "4": 1})

    def test_apostrophes(self):
        self.assertEqual(count_words("First: don't laugh. Then: don't cry."), {"first": 1, "don't": 2, "laugh": 1, "then": 1, "cry": 1})
        self.assertEqual(count_words("Joe can't tell between 'large' and large."), {"joe": 1, "can't": 1, "tell": 1, "between": 1, "large": 2, "and": 1})


if __name__ == "__main__":
    unittest.main()
