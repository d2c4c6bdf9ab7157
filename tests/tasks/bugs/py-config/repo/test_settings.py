import unittest

from settings import as_bool, as_list, parse


class SettingsTest(unittest.TestCase):
    def test_simple(self):
        self.assertEqual(parse("a = 1\nb=2\n"), {"a": "1", "b": "2"})

    def test_comments_and_empty_lines(self):
        self.assertEqual(parse("# all\n\na = 1 # one\n"), {"a": "1"})

    def test_values_with_an_equals_sign(self):
        self.assertEqual(parse("url = http://x/?q=1&p=2"), {"url": "http://x/?q=1&p=2"})

    def test_types(self):
        self.assertTrue(as_bool("Yes"))
        self.assertEqual(as_list("a, b,,c"), ["a", "b", "c"])


if __name__ == "__main__":
    unittest.main()
