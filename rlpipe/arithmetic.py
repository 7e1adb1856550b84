"""Whole numbers."""


def ceil_div(number: int, size: int) -> int:
    """How many pieces of `size` it takes to hold `number`."""
    return -(-number // size)
