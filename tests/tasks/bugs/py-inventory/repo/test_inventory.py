import unittest

from inventory import Inventory


class InventoryTest(unittest.TestCase):
    def test_goods_come_and_go(self):
        shop = Inventory()
        shop.receive("pen", 10)
        shop.sell("pen", 3)
        self.assertEqual(shop.stock["pen"], 7)

    def test_what_is_brought_back_can_be_sold_again(self):
        shop = Inventory()
        shop.receive("pen", 10)
        shop.sell("pen", 4)
        shop.give_back("pen", 2)
        self.assertEqual(shop.stock["pen"], 8)

    def test_more_than_was_sold_cannot_come_back(self):
        shop = Inventory()
        shop.receive("pen", 10)
        shop.sell("pen", 1)
        with self.assertRaises(ValueError):
            shop.give_back("pen", 2)


if __name__ == "__main__":
    unittest.main()
