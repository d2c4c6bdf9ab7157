import unittest

from paging import Pages


class PagesTest(unittest.TestCase):
    def test_even(self):
        self.assertEqual(Pages(range(6), 3).count(), 2)

    def test_the_last_page_may_be_short(self):
        pages = Pages(range(7), 3)
        self.assertEqual(pages.count(), 3)
        self.assertEqual(pages.page(3), [6])

    def test_nothing_has_no_pages(self):
        self.assertEqual(Pages([], 3).count(), 0)
        self.assertEqual(list(Pages([], 3)), [])

    def test_all_items_are_on_some_page(self):
        for n in range(20):
            for size in range(1, 6):
                self.assertEqual([x for page in Pages(range(n), size) for x in page], list(range(n)))
