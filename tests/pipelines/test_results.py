"""The interquartile mean and its interval, worked out by hand, and curves put on one axis."""

from pathlib import Path

import numpy as np
import pytest

from rlpipe.pipelines.results import FinishedRun, interquartile_mean, over_seeds


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        # each mean of two draws has a chance of a quarter at the ends
        ([1.0, 2.0], (1.5, 1.0, 2.0)),
        # too few to cut: the mean; each end has a chance of 1 in 27, more than 2.5 %
        ([0.0, 3.0, 9.0], (4.0, 0.0, 9.0)),
        # one of 5 is cut at each end. Among 5 draws k are 10, binomial (5, 0.2): P(k > 2) = 5.8 %, P(k > 3) = 0.7 %,
        # and with k = 3 two of the three that are left are 10
        ([0.0, 10.0, 0.0, 0.0, 0.0], (0.0, 0.0, 20 / 3)),
        # two of 8 at each end; k are 4, binomial (8, 0.5): P(k < 2) = 3.5 %, and all of the four that are left are 0
        ([0.0, 4.0] * 4, (2.0, 0.0, 4.0)),
    ],
)
def test_interquartile_mean(scores, expected):
    assert interquartile_mean(scores) == pytest.approx(expected)


def test_interquartile_mean_ignores_outliers():
    assert interquartile_mean([100.0, 2.0, 3.0, 4.0, -50.0])[0] == 3.0


@pytest.mark.parametrize("score", [0.1, 500.0])
def test_equal_scores_are_their_own_mean_and_interval_to_the_bit(score):
    assert interquartile_mean([score] * 3) == (score, score, score)
    assert interquartile_mean([score]) == (score, None, None)


def test_the_interval_is_the_same_each_time():
    scores = np.random.default_rng(1).normal(size=7).tolist()
    assert interquartile_mean(scores) == interquartile_mean(scores)


def finished(*curve):
    return FinishedRun(Path(), "ppo", "ppo", {}, 0, 0, 0.0, 0.0, np.array(curve, dtype=float))


def test_curves_on_one_axis():
    runs = [finished((10, 1, 0), (30, 5, 8)), finished((20, 2, 6), (40, 4, 2))]
    frames, returns = over_seeds(runs, 0)
    assert frames.tolist() == [20, 30, 40]
    assert returns.tolist() == [[4, 8, 8], [6, 4, 2]]
    seconds, returns = over_seeds(runs, 1)
    assert seconds.tolist() == [2, 4, 5]
    assert returns.tolist() == [[2, 6, 8], [6, 2, 2]]
