import unittest

from lru import LruCache


class LruCacheTest(unittest.TestCase):
    def test_holds_no_more_than_its_capacity(self):
        cache = LruCache(2)
        for i in range(5):
            cache.put(i, i)
        self.assertEqual(len(cache), 2)

    def test_what_was_read_stays(self):
        cache = LruCache(2)
        cache.put("a", 1)
        cache.put("b", 2)
        self.assertEqual(cache.get("a"), 1)
        cache.put("c", 3)
        self.assertIn("a", cache)
        self.assertNotIn("b", cache)

    def test_what_was_written_again_stays(self):
        cache = LruCache(2)
        cache.put("a", 1)
        cache.put("b", 2)
        cache.put("a", 3)
        cache.put("c", 4)
        self.assertEqual(cache.get("a"), 3)
        self.assertIsNone(cache.get("b"))


if __name__ == "__main__":
    unittest.main()
