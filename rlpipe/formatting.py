"""Formatting returns of any size, times, rates and shares.

Numbers that are shown together have the same decimals, chosen by the largest of them and their spread:
`500.0 +- 0.0`, `0.000912 +- 0.000224`, `1.00042 +- 0.00031`. `numbers.js` has the same rules for a report.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

_SMALLEST, _LARGEST = 1e-4, 1e7
"""Numbers below the first, and from the second on, are written with an exponent."""
_SINGLE, _DOUBLE = 1e-6, 1e-12
"""Relative to the largest number, the rounding errors of float32, in which returns are summed, and of float64."""


def column(values: Sequence[float], thousands: str = "") -> list[str]:
    """Format returns that were measured separately, such as those of seeds; only zero is written as zero.

    Args:
        values: at least one; infinite ones and NaN are allowed.
        thousands: separator of groups of three digits.
    """
    finite = [value for value in values if math.isfinite(value)]
    spread = max(finite, default=0.0) - min(finite, default=0.0)
    return _texts(values, spread, _DOUBLE, thousands)


def figure(value: float, thousands: str = "") -> str:
    """Format one return."""
    return column([value], thousands)[0]


def statistics(summary: Mapping[str, float], thousands: str = "") -> dict[str, str]:
    """Format the `mean`, `std`, `min` and `max` of `Evaluation.summary`."""
    names = ("mean", "std", "min", "max")
    texts = _texts([summary[name] for name in names], summary["std"], _SINGLE, thousands)
    return dict(zip(names, texts, strict=True))


def duration(seconds: float) -> str:
    """Format seconds with one decimal, and with more below one second."""
    return f"{seconds:.{decimals_of_seconds(seconds)}f}"


def decimals_of_seconds(longest: float) -> int:
    """The number of decimals for seconds, by the longest of them."""
    return 1 if longest >= 1 or longest <= 0 else 1 - _exponent(longest)


def rate(per_second: float) -> str:
    """Format a rate a second; below ten with two digits."""
    return f"{per_second:,.0f}" if abs(per_second) >= 10 else f"{per_second:.2g}"


def share(part: int, whole: int) -> str:
    """Format a share in per cent, rounded down: 100 % is all."""
    return f"{min(100 * part // whole, 100)}%"


def _texts(values: Sequence[float], spread: float, noise: float, thousands: str) -> list[str]:
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    decimals = _decimals(largest)
    if _SINGLE * largest < spread < 10.0**-decimals:
        # else the numbers would look equal, or the deviation like zero
        decimals = 1 - _exponent(spread)
    texts = []
    for value in values:
        text = _text(value, decimals, thousands, tiny=0 < largest < _SMALLEST)
        vanished = float(text.replace(thousands, "")) == 0 and abs(value) > noise * largest
        texts.append(figure(value, thousands) if vanished else text)
    return texts


def _text(value: float, decimals: int, thousands: str, *, tiny: bool) -> str:
    if not math.isfinite(value):
        return f"{value}"
    if value and (tiny or abs(value) >= _LARGEST):
        return f"{value:.{max(2, decimals + _exponent(value))}e}"
    # adding 0 turns -0.0 into 0.0
    places = 0 if tiny else max(0, decimals)
    return f"{round(value, places) + 0.0:,.{places}f}".replace(",", thousands)


def _decimals(largest: float) -> int:
    """Three digits for small and huge numbers, one or two decimals for ordinary ones, and none from a million on."""
    if largest == 0:
        return 2
    if 0.1 <= largest < _LARGEST:
        return 2 if largest < 10 else 1 if largest < 1e6 else 0
    return 2 - _exponent(largest)


def _exponent(value: float) -> int:
    return math.floor(math.log10(abs(value)))
