"""From what a policy drew to what an environment takes."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete, Space

from rlpipe.errors import ConfigError, TrainingError

_WORDS = 2**64


class ActionCast:
    """Actions as an environment's action space has them: of its data type, and never outside of it.

    A Discrete action is counted from where the space begins. A Box action is clipped to the bounds, in the space's own
    precision. For a Box of integers the range is cut into as many equal parts as there are integers, from `low` for the
    first to `high` for the last, so that all are as likely under a uniform draw; an integer is taken as it is.

    Args:
        space: of one environment.

    Raises:
        ConfigError: it is neither a Box nor Discrete.
    """

    def __init__(self, space: Space[Any]) -> None:
        if not isinstance(space, (Box, Discrete)):
            raise ConfigError(f"the action space is {space}; rlpipe takes Box and Discrete spaces")
        self.dtype = np.dtype(space.dtype)
        self.start = int(space.start) if isinstance(space, Discrete) else 0
        self._discrete, self._whole = isinstance(space, Discrete), self.dtype.kind in "iub"
        if isinstance(space, Discrete):
            return
        # a missing bound is the largest number there is, beyond which an action would become infinite
        self.low, self.high = (each if self._whole else np.nan_to_num(each) for each in (space.low, space.high))
        if self._whole:
            low, high = _exact(space.low), _exact(space.high)
            width = np.asarray(high - low, dtype=object)
            self._first = np.asarray(low % _WORDS, dtype=object).astype(np.uint64)
            self._last = width.astype(np.float64)
            self._parts = np.asarray((width + 1) / np.where(width == 0, 1, width)).astype(np.float64)

    def __call__(self, action: np.ndarray) -> np.ndarray:
        """Actions `[num_envs, *action]` of any type to a new array of the same shape.

        Raises:
            TrainingError: an action for a Box of integers is NaN.
        """
        if self._discrete:
            return (action + self.start).astype(self.dtype, copy=False)
        if self._whole and action.dtype != self.dtype:
            return self._to_integers(action)
        inside: np.ndarray = np.minimum(np.maximum(action, self.low), self.high)
        return inside.astype(self.dtype, copy=False)

    def _to_integers(self, action: np.ndarray) -> np.ndarray:
        place = (action.astype(np.float64) - self.low) * self._parts
        if np.isnan(place).any():
            raise TrainingError(f"the policy's action is NaN, expected numbers from {self.low} to {self.high}")
        part = np.floor(np.minimum(np.maximum(place, 0.0), self._last))
        highest = part >= self._last
        # sums of 64 bits that wrap around; read as the type of the space they are right, whatever its range
        words = self._first + np.where(highest, 0.0, part).astype(np.uint64)
        signed = words if self.dtype.kind == "u" else words.view(np.int64)
        return np.where(highest, self.high, signed.astype(self.dtype))


def _exact(bound: np.ndarray) -> np.ndarray:
    """As Python's integers, because neither int64 nor float64 holds the width of every range."""
    return np.array(bound.tolist(), dtype=object).reshape(bound.shape)
