import unittest

from brackets import balanced


class BracketsTest(unittest.TestCase):
    def test_balanced(self):
        for text in ["", "[]", "{[]}", "([{}({}[])])", "f(x[1]) { return y }"]:
            self.assertTrue(balanced(text), text)

    def test_not(self):
        for text in ["[", "]", "[[", "}{", "{[)][]}", "([{])", "(()"]:
            self.assertFalse(balanced(text), text)


if __name__ == "__main__":
    unittest.main()
