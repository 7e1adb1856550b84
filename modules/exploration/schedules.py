"""Schedules of exploration in closed form: functions of the frames and the finished episodes so far."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from rlpipe.kinds import ScheduleKind

Schedule = Callable[[int, int], float]
"""A number as a function of the frames and the finished episodes so far."""


@dataclass(frozen=True)
class Linear:
    """From `start` to `end` in a straight line over `frames`, then `end`."""

    start: float
    end: float
    frames: int

    def __call__(self, frames: int, episodes: int) -> float:
        return self.start + (self.end - self.start) * min(1.0, frames / self.frames)


@dataclass(frozen=True)
class Exponential:
    """`end + (start - end) * exp(-frames / decay)`; `decay` is in frames."""

    start: float
    end: float
    decay: int

    def __call__(self, frames: int, episodes: int) -> float:
        return self.end + (self.start - self.end) * math.exp(-frames / self.decay)


@dataclass(frozen=True)
class Geometric:
    """`start`, times `factor` with each finished episode, never below `end`."""

    start: float
    end: float
    factor: float

    def __call__(self, frames: int, episodes: int) -> float:
        return max(self.end, self.start * self.factor**episodes)


@dataclass(frozen=True)
class Harmonic:
    """`start / (1 + finished episodes)`."""

    start: float

    def __call__(self, frames: int, episodes: int) -> float:
        return self.start / (1 + episodes)


def make_schedule(kind: ScheduleKind, start: float, end: float, *, frames: int, factor: float) -> Schedule:
    """A schedule by its name.

    Args:
        kind: `linear` and `exponential` go by frames, `geometric` and `harmonic` by episodes.
        start: first value.
        end: last or lowest value; `harmonic` has none but 0.
        frames: where `linear` ends, or the decay constant of `exponential`.
        factor: of `geometric`.

    Raises:
        ValueError: an unknown `kind`.
    """
    schedules: dict[ScheduleKind, Schedule] = {
        "linear": Linear(start, end, frames),
        "exponential": Exponential(start, end, frames),
        "geometric": Geometric(start, end, factor),
        "harmonic": Harmonic(start),
    }
    if kind not in schedules:
        raise ValueError(f"kind is {kind!r}; allowed are {', '.join(map(repr, schedules))}")
    return schedules[kind]
