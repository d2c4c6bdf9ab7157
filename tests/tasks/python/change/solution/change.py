def change(coins, amount):
    if amount < 0:
        raise ValueError("negative amount")
    best = {0: []}
    for total in range(1, amount + 1):
        ways = [best[total - coin] + [coin] for coin in coins if total - coin in best]
        if ways:
            best[total] = min(ways, key=len)
    if amount not in best:
        raise ValueError("no combination")
    return sorted(best[amount])
