"""Schedules in closed form."""

import math

import pytest

from rlpipe.modules import Exponential, Geometric, Harmonic, Linear, make_schedule


@pytest.mark.parametrize(
    ("schedule", "frames", "episodes", "expected"),
    [
        (Linear(1.0, 0.1, 100), 0, 9, 1.0),
        (Linear(1.0, 0.1, 100), 50, 9, 0.55),
        (Linear(1.0, 0.1, 100), 100, 9, 0.1),
        (Linear(1.0, 0.1, 100), 5000, 9, 0.1),
        (Exponential(0.9, 0.05, 1000), 0, 9, 0.9),
        (Exponential(0.9, 0.05, 1000), 1000, 9, 0.05 + 0.85 / math.e),
        (Geometric(1.0, 0.001, 0.5), 77, 0, 1.0),
        (Geometric(1.0, 0.001, 0.5), 77, 3, 0.125),
        (Geometric(1.0, 0.001, 0.5), 77, 30, 0.001),
        (Harmonic(0.5), 77, 0, 0.5),
        (Harmonic(0.5), 77, 4, 0.1),
    ],
)
def test_schedules(schedule, frames, episodes, expected):
    assert schedule(frames, episodes) == pytest.approx(expected)


def test_schedules_by_name():
    kinds = ("linear", "exponential", "geometric", "harmonic")
    made = [make_schedule(kind, 0.9, 0.1, frames=50, factor=0.5) for kind in kinds]
    assert made == [Linear(0.9, 0.1, 50), Exponential(0.9, 0.1, 50), Geometric(0.9, 0.1, 0.5), Harmonic(0.9)]
