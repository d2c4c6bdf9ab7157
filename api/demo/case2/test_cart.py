import unittest

from cart import Cart
from shipping import shipping_cost


class Shipping(unittest.TestCase):
    def test_a_small_order_pays_the_flat_rate(self):
        self.assertEqual(shipping_cost(1999), 490)

    def test_a_large_order_is_sent_for_free(self):
        self.assertEqual(shipping_cost(5000), 0)

    def test_nothing_costs_nothing(self):
        self.assertEqual(shipping_cost(0), 0)


class CartTotal(unittest.TestCase):
    def test_one_small_article(self):
        cart = Cart()
        cart.add("mug", 1200)
        self.assertEqual(cart.total(), 1690)

    def test_discount_for_three_pieces(self):
        cart = Cart()
        cart.add("book", 1000, 3)
        self.assertEqual(cart.discount(), 300)

    def test_large_order_with_discount(self):
        cart = Cart()
        cart.add("lamp", 4000, 2)
        cart.add("bulb", 500, 2)
        self.assertEqual(cart.total(), 8100)

    def test_no_pieces_are_refused(self):
        with self.assertRaises(ValueError):
            Cart().add("mug", 1200, 0)


if __name__ == "__main__":
    unittest.main()
