import unittest

from pig_latin import translate


class PigLatinTest(unittest.TestCase):
    def test_vowels(self):
        self.assertEqual(translate("apple"), "appleay")
        self.assertEqual(translate("xray"), "xrayay")
        self.assertEqual(translate("yttria"), "yttriaay")

    def test_consonants(self):
        self.assertEqual(translate("pig"), "igpay")
        self.assertEqual(translate("chair"), "airchay")
        self.assertEqual(translate("school"), "oolschay")
        self.assertEqual(translate("yellow"), "ellowyay")

    def test_qu(self):
        self.assertEqual(translate("queen"), "eenquay")
        self.assertEqual(translate("square"), "aresquay")

    def test_y(self):
        self.assertEqual(translate("rhythm"), "ythmrhay")
        self.assertEqual(translate("my"), "ymay")

    def test_phrase(self):
        self.assertEqual(translate("quick fast run"), "ickquay astfay unray")


if __name__ == "__main__":
    unittest.main()
