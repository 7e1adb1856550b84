"""Curves drawn with block characters."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII = ".:-=+*#@"
"""Eight levels for a terminal that shows ASCII only; darker is higher."""

Point = tuple[int, float]


class Series:
    """Values against frames in bounded memory: pairs of neighbours are averaged when there are too many points."""

    def __init__(self, at_most: int = 512) -> None:
        self._at_most, self._stride = at_most, 1
        self._points: list[Point] = []
        self._waiting: list[Point] = []
        self._ends: list[Point] = []
        self.low, self.high = math.inf, -math.inf

    def add(self, frames: int, value: float) -> None:
        """Add a value at a frame; frames must not decrease."""
        self._ends = [(self._ends or [(frames, value)])[0], (frames, value)]
        if math.isfinite(value):
            self.low, self.high = min(self.low, value), max(self.high, value)
        self._waiting.append((frames, value))
        if len(self._waiting) == self._stride:
            self._points.append(_mean(self._waiting))
            self._waiting = []
        if len(self._points) == self._at_most:
            self._points = [_mean(self._points[index : index + 2]) for index in range(0, self._at_most, 2)]
            self._stride *= 2

    def points(self) -> list[Point]:
        """Frames and values in order; the first and the last point are exact."""
        points = self._points + ([_mean(self._waiting)] if self._waiting else [])
        if points:
            points[0], points[-1] = self._ends
        return points


def _mean(points: Sequence[Point]) -> Point:
    return points[-1][0], sum(value for _, value in points) / len(points)


def resample(points: Sequence[Point], width: int, until: int) -> list[float]:
    """The values of `width` equal intervals of the frames up to `until`; NaN before the first value.

    The value of an interval is the mean of its points, or the value before if it has none. The first and the last
    value are exact.
    """
    frames = [each for each, _ in points]
    cells: list[float] = []
    for index in range(width):
        start, stop = (bisect_right(frames, until * edge / width) for edge in (index, index + 1))
        start = 0 if index == 0 else start
        if start < stop:
            cells.append(sum(value for _, value in points[start:stop]) / (stop - start))
        else:
            cells.append(cells[-1] if cells else math.nan)
    begins = next((index for index, value in enumerate(cells) if not math.isnan(value)), None)
    if points and begins is not None:
        cells[begins] = points[0][1]
        cells[-1] = points[-1][1]
    return cells


def sparkline(
    values: Sequence[float], rows: int = 1, marks: str = BLOCKS, ends: tuple[float, float] | None = None
) -> list[str]:
    """Draw one column per value, in `rows` times eight levels, and return the rows from top to bottom.

    The lowest value gets the lowest of the `marks` and the highest value the highest, or those at the `ends` of a scale
    do; if these are equal, the middle one. A value that is not finite gets no mark.
    """
    finite = [value for value in values if math.isfinite(value)]
    low, high = (min(finite, default=0.0), max(finite, default=0.0)) if ends is None else ends
    top = rows * len(marks)
    levels = [_level(value, low, high, top) for value in values]
    lines = []
    for row in reversed(range(rows)):
        above = [min(max(level - row * len(marks), 0), len(marks)) for level in levels]
        lines.append("".join(marks[each - 1] if each else " " for each in above))
    return lines


def _level(value: float, low: float, high: float, top: int) -> int:
    """A level from 1 to `top`; 0 for a value that is not finite."""
    if not math.isfinite(value):
        return 0
    # halved, because the difference of two large numbers may overflow
    share = (value / 2 - low / 2) / (high / 2 - low / 2) if high > low else 0.5
    return 1 + round(share * (top - 1))
