"""What it costs to send a parcel, in cents."""

FREE_FROM = 5000
FLAT_RATE = 490


def shipping_cost(goods):
    """Sending is free for goods of FREE_FROM or more; below that it costs FLAT_RATE."""
    if goods < 0:
        raise ValueError("goods cannot cost less than nothing")
    if goods == 0:
        return 0
    if goods < FREE_FROM:
        return 0
    return FLAT_RATE
