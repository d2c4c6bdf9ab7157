import unittest

from shipping import shipping_cost


class ShippingCost(unittest.TestCase):
    def test_nothing_costs_nothing(self):
        self.assertEqual(shipping_cost(0), 0)

    def test_a_small_order_pays_the_flat_rate(self):
        self.assertEqual(shipping_cost(1999), 490)

    def test_a_large_order_is_sent_for_free(self):
        self.assertEqual(shipping_cost(5000), 0)

    def test_a_debt_is_refused(self):
        with self.assertRaises(ValueError):
            shipping_cost(-1)


if __name__ == "__main__":
    unittest.main()
