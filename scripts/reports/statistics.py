"""Statistics of a few seeds: interquartile means, probabilities of improvement, and their bootstrap intervals.

Source: Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice", and its library
rliable. An interval is the 95 % percentile interval: from the 2.5th to the 97.5th percentile of the statistic over
resamples. Resampling is stratified: it draws seeds with replacement within each stratum (an environment, or one of two
groups). The draws are the same each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Estimate = tuple[float, float | None, float | None]
"""A statistic, and the lower and upper end of its interval; both are `None` for a single seed."""

RESAMPLES = 9_999
"""Number of resamples for an interval in a table."""
BAND_RESAMPLES = 2_000
"""Number of resamples for a band around a curve."""
_CUT = 0.25
_ENDS = (2.5, 97.5)


def interquartile_mean(*strata: Sequence[float]) -> Estimate:
    """Interquartile mean of all scores of one or several environments, and its interval.

    Whole scores are trimmed: with fewer than four scores it trims none, and the result is the mean.

    Args:
        strata: the scores of each environment, `[seeds]` each, and normalised if there are several environments; the
            numbers of seeds may differ.
    """
    scores = np.concatenate([np.asarray(stratum, dtype=float) for stratum in strata])
    single = all(len(stratum) == 1 for stratum in strata)
    if scores.min() == scores.max():
        # rounding may change the last digit of a mean of equal numbers
        equal = float(scores[0])
        return (equal, None, None) if single else (equal, equal, equal)
    center = float(_trimmed_mean(scores))
    if single:
        return center, None, None
    random = np.random.default_rng(0)
    drawn = [np.asarray(each, float)[random.integers(0, len(each), (RESAMPLES, len(each)))] for each in strata]
    return center, *_ends(_trimmed_mean(np.concatenate(drawn, axis=1), axis=1))


def probability_of_improvement(first: Sequence[float], second: Sequence[float]) -> Estimate:
    """Probability that a seed of the first group ends above one of the second, over all pairs; a tie counts half.

    This is the Mann-Whitney U statistic divided by the number of pairs. Each group, `[seeds]`, is a stratum; if either
    has one seed, there is no interval.
    """
    above, below = np.asarray(first, dtype=float)[:, None], np.asarray(second, dtype=float)
    wins = (above > below) + 0.5 * (above == below)
    if 1 in wins.shape:
        return float(wins.mean()), None, None
    random = np.random.default_rng(0)
    # how often each seed is drawn
    times = [random.multinomial(n, np.full(n, 1 / n), size=RESAMPLES) for n in wins.shape]
    return float(wins.mean()), *_ends(((times[0] @ wins) * times[1]).sum(1) / wins.size)


def interquartile_band(curves: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Interquartile mean of curves at each position, and its pointwise interval; resampling draws whole curves.

    Args:
        curves: `[seeds, positions]`.

    Returns:
        The mean and the ends of the interval, `[positions]` each; a single seed has no interval.
    """
    center = _trimmed_mean(curves)
    seeds = len(curves)
    if seeds == 1:
        return center, None, None
    drawn = np.random.default_rng(0).integers(0, seeds, (BAND_RESAMPLES, seeds))
    ends = np.array([_ends(_trimmed_mean(column[drawn], axis=1)) for column in curves.T])
    return center, ends[:, 0], ends[:, 1]


def _trimmed_mean(values: np.ndarray, axis: int = 0) -> Any:
    """`scipy.stats.trim_mean`, whose import takes longer than all else that makes a table."""
    count = values.shape[axis]
    cut = int(_CUT * count)
    kept = np.moveaxis(np.partition(values, (cut, count - cut - 1), axis), axis, 0)[cut : count - cut]
    return kept.mean(0)


def _ends(resampled: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(resampled, _ENDS)
    return float(low), float(high)
