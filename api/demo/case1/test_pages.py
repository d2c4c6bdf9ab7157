import unittest

from pages import page_count, page_items, page_links


class PageCount(unittest.TestCase):
    def test_full_pages(self):
        self.assertEqual(page_count(20, 10), 2)

    def test_a_rest_gets_its_own_page(self):
        self.assertEqual(page_count(21, 10), 3)

    def test_no_items_take_no_page(self):
        self.assertEqual(page_count(0, 10), 0)

    def test_a_page_without_room_is_refused(self):
        with self.assertRaises(ValueError):
            page_count(5, 0)


class PageItems(unittest.TestCase):
    def test_first_page(self):
        self.assertEqual(page_items(["a", "b", "c"], 1, 2), ["a", "b"])

    def test_last_page_holds_the_rest(self):
        self.assertEqual(page_items(["a", "b", "c"], 2, 2), ["c"])


class PageLinks(unittest.TestCase):
    def test_in_the_middle(self):
        self.assertEqual(page_links(2, 30, 10), (1, 3))

    def test_at_the_end(self):
        self.assertEqual(page_links(3, 30, 10), (2, None))


if __name__ == "__main__":
    unittest.main()
