def change(coins, amount):
    pass
