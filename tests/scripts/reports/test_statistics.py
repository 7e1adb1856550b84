"""Statistics over seeds, against numbers worked out by hand, against every resample there is, and against SciPy."""

import itertools

import numpy as np
import pytest
from scipy import stats

from rlpipe.scripts.reports.statistics import (
    interquartile_band,
    interquartile_mean,
    probability_of_improvement,
)


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


def every_resample(values):
    return [list(each) for each in itertools.product(values, repeat=len(values))]


def test_the_interval_is_that_of_every_resample():
    # 6 ** 6 resamples; the percentiles of 9999 of them lie near those of all
    scores = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
    everything = stats.trim_mean(np.array(every_resample(scores)), 0.25, axis=1)
    center, low, high = interquartile_mean(scores)
    assert center == (2 + 4 + 8 + 16) / 4
    assert np.mean(everything < low) <= 0.03 <= np.mean(everything <= low) + 0.01
    assert np.mean(everything > high) <= 0.03 <= np.mean(everything >= high) + 0.01


def test_the_interval_is_that_of_scipy():
    scores = np.random.default_rng(1).normal(size=7)
    interval = stats.bootstrap(
        (scores,),
        lambda values, axis: stats.trim_mean(values, 0.25, axis=axis),
        method="percentile",
        random_state=np.random.default_rng(0),
    ).confidence_interval
    assert interquartile_mean(scores.tolist())[1:] == pytest.approx(tuple(interval), rel=1e-12)


def test_seeds_are_drawn_within_their_environment():
    # were seeds drawn across, a resample could be all 0 or all 1
    strata = [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]
    assert interquartile_mean(*strata) == (0.5, 0.5, 0.5)
    # eight scores, two cut at each end: 0, 0, 0.5, 1
    assert interquartile_mean(*[[0.0] * 4, [0.5, 1.0, 1.0, 1.0]])[0] == 0.375
    assert interquartile_mean(*[[0.0], [1.0]]) == (0.5, None, None)
    assert interquartile_mean(*[[2.0], [2.0]]) == (2.0, None, None)
    # one seed on one environment never varies; the mean of two draws has a quarter at each end: means of 3 scores
    assert interquartile_mean(*[[3.0], [0.0, 6.0]]) == pytest.approx((3.0, 1.0, 5.0))


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        # 6 pairs: 3 > 1, 3 = 3 a half, 5 > 1, 5 > 3, 0 and 0 against 1 and 3 lose: 3.5 of 6
        ([3.0, 5.0, 0.0], [1.0, 3.0], 3.5 / 6),
        ([2.0, 2.0], [2.0, 2.0], 0.5),
        ([1.0, 2.0], [0.0, 0.5], 1.0),
        ([0.0], [1.0, -1.0, 0.0], 0.5),
    ],
)
def test_probability_of_improvement(first, second, expected):
    found = probability_of_improvement(first, second)
    assert found[0] == pytest.approx(expected)
    assert probability_of_improvement(second, first)[0] == pytest.approx(1 - expected)
    assert found[0] == pytest.approx(stats.mannwhitneyu(first, second).statistic / (len(first) * len(second)))
    assert (found[1] is None) == (len(first) == 1)


def test_the_interval_of_a_probability_is_that_of_every_resample():
    first, second = [1.0, 4.0, 6.0], [0.0, 3.0, 5.0, 5.0]
    everything = np.array(
        [
            np.mean([(x > y) + 0.5 * (x == y) for x in xs for y in ys])
            for xs in every_resample(first)
            for ys in every_resample(second)
        ]
    )
    point, low, high = probability_of_improvement(first, second)
    assert point == pytest.approx(7 / 12)
    assert (low, high) == pytest.approx(tuple(np.percentile(everything, [2.5, 97.5])), abs=0.05)
    assert probability_of_improvement([1.0, 2.0], [0.0, 0.5])[1:] == (1.0, 1.0)
    assert probability_of_improvement([1.0], [0.0, 0.5])[1:] == (None, None)


def test_a_band_is_the_interval_at_each_position():
    curves = np.random.default_rng(3).normal(size=(6, 4)) * [1, 10, 100, 0]
    center, low, high = interquartile_band(curves)
    for position in range(3):
        expected = interquartile_mean(curves[:, position].tolist())
        # fewer resamples than for a table
        assert (center[position], low[position], high[position]) == pytest.approx(expected, rel=0.3)
        assert low[position] < center[position] < high[position]
    assert (center[3], low[3], high[3]) == (0, 0, 0)
    center, *ends = interquartile_band(curves[:1])
    assert center.tolist() == curves[0].tolist()
    assert ends == [None, None]
