"""The mean and variance of everything seen so far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

EPSILON = 1e-8
"""Added to variances, as Stable-Baselines3's `VecNormalize` does."""


class Moments(NamedTuple):
    """The mean and variance of a `number` of rows, `[*shape]` each, float64."""

    mean: Any
    var: Any
    number: float

    def plus(self, other: Moments) -> Moments:
        """Those of both together; Chan et al. 1979, equation 2.1."""
        if not other.number:
            return self
        if not self.number:
            return other
        mean, var, before = self
        number = before + other.number
        weight, delta = other.number / number, other.mean - mean
        # in place, which is faster for arrays and the same for numbers
        squares = delta * delta
        squares *= before * weight
        squares += var * before
        squares += other.var * other.number
        squares /= number
        delta *= weight
        delta += mean
        return Moments(delta, squares, number)


class RunningMoments(nn.Module):
    """The mean and variance of all rows so far, in float64; `state_dict` has them as tensors.

    They are kept in NumPy, which is faster for few numbers. Before the first row, the mean is 0 and the variance 1.

    Args:
        shape: of a row.
    """

    now: Moments
    news: Moments | None
    """Of the rows since the last `take_news`, if they are kept: see `keep_news`."""

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)
        # `nn.Module` is slow to set attributes
        self.__dict__.update(now=Moments(np.zeros(self.shape), np.ones(self.shape), 0.0), news=None)

    def update(self, rows: np.ndarray) -> None:
        """Add rows `[n, *shape]`, float64."""
        number = len(rows)
        mean = np.add.reduce(rows, 0)
        mean /= number
        apart = rows - mean
        apart *= apart
        var = np.add.reduce(apart, 0)
        var /= number
        self.add(Moments(mean, var, number))

    def update_each(self, batches: np.ndarray) -> np.ndarray:
        """Add batches of numbers `[T, n]` one after the other; returns `std()` after each, `[T]`."""
        number = batches.shape[1]
        means = np.add.reduce(batches, 1) / number
        apart = batches - means[:, None]
        variances = np.add.reduce(apart * apart, 1) / number
        after = []
        for mean, var in zip(means.tolist(), variances.tolist(), strict=True):
            self.add(Moments(mean, var, number))
            after.append(math.sqrt(self.now.var + EPSILON))
        return np.array(after)

    def add(self, moments: Moments) -> None:
        """Add rows, of which these are the moments."""
        own = self.__dict__
        own["now"] = own["now"].plus(moments)
        if own["news"] is not None:
            own["news"] = own["news"].plus(moments)

    def std(self) -> np.ndarray:
        """The standard deviation to divide by, `[*shape]`, float64."""
        return np.sqrt(self.now.var + EPSILON)

    def keep_news(self, news: Moments | None = None) -> None:
        """Keep the moments of new rows by themselves too, from now on, beginning with those of `news`."""
        empty = Moments(np.zeros(self.shape), np.zeros(self.shape), 0.0)
        self.__dict__["news"] = empty if news is None else Moments(*news)

    def take_news(self) -> Moments:
        """The moments of the rows since the last call."""
        assert self.news is not None
        taken = self.news
        self.keep_news()
        return taken

    def load(self, moments: Moments) -> None:
        """Continue from these moments."""
        self.__dict__["now"] = Moments(*moments)

    def add_news(self) -> None:
        """Add the rows that were not yet taken, to moments that were loaded."""
        if self.news is not None:
            self.load(self.now.plus(self.news))

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        for name, value in self.now._asdict().items():
            destination[prefix + name] = torch.tensor(np.array(value), dtype=torch.float64)

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        values = []
        for name in Moments._fields:
            value, shape = state_dict.get(prefix + name), () if name == "number" else self.shape
            if value is None:
                missing_keys.append(prefix + name)
            elif tuple(value.shape) != shape:
                error_msgs.append(f"{prefix}{name} has shape {list(value.shape)}, expected {list(shape)}")
            else:
                values.append(value.double().numpy().copy())
        if len(values) == len(Moments._fields):
            mean, var, number = values
            self.load(Moments(mean, var, float(number)))


def moments_of(module: nn.Module) -> list[RunningMoments]:
    """All running moments of a module, such as the transforms of an environment, in its order."""
    return [each for each in module.modules() if isinstance(each, RunningMoments)]
