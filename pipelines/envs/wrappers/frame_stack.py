"""Stacked observations. Worker processes import this module, so it must not import PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Tuple

from rlpipe.errors import ConfigError

_UNSTACKED = ("action_mask", "lives")
"""Entries of which only the newest is of use."""
_IMAGE_DIMENSIONS = (2, 3)


class FrameStack(gym.Wrapper[Any, Any, Any, Any]):
    """Observes the last `frames` observations, oldest first; an episode begins with its first one as often.

    Numbers and vectors are joined at the end: `[d]` becomes `[frames * d]`. Images and matrices get a new first
    dimension, as convolutional networks take them: `[84, 84]` becomes `[frames, 84, 84]`. Discrete observations become
    a MultiDiscrete. Entries of a Dict or Tuple are stacked one by one, but an `action_mask` and `lives` are not.

    Unlike Gymnasium's `FrameStackObservation` it copies observations, which environments may reuse.

    Args:
        env: to observe.
        frames: how many observations.

    Raises:
        ConfigError: the observation space has a part that cannot be stacked.
    """

    def __init__(self, env: gym.Env[Any, Any], frames: int) -> None:
        super().__init__(env)
        self._count, self._space = frames, env.observation_space
        self.observation_space = _stacked_space(self._space, frames)
        self.stacks: list[np.ndarray] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        self.stacks = [np.concatenate([row] * self._count) for row in _rows(self._space, observation)]
        return self._stacked(observation), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, *rest = self.env.step(action)
        rows = _rows(self._space, observation)
        # new arrays, because the old ones may still be in use
        self.stacks = [np.concatenate([old[len(new) :], new]) for old, new in zip(self.stacks, rows, strict=True)]
        return self._stacked(observation), *rest

    def _stacked(self, observation: Any) -> Any:
        return _joined(self._space, observation, iter(self.stacks))


def _rows(space: Space[Any], observation: Any, key: str = "") -> Iterator[np.ndarray]:
    """The leaves of an observation, as the rows that its stack gets."""
    if key in _UNSTACKED:
        return
    if isinstance(space, Dict):
        for name, each in space.spaces.items():
            yield from _rows(each, observation[name], name)
    elif isinstance(space, Tuple):
        for index, each in enumerate(space.spaces):
            yield from _rows(each, observation[index])
    else:
        array = np.asarray(observation)
        yield array[None] if array.ndim in (0, *_IMAGE_DIMENSIONS) else array


def _joined(space: Space[Any], observation: Any, stacks: Iterator[np.ndarray], key: str = "") -> Any:
    """The observation with the stacks in place of its leaves."""
    if key in _UNSTACKED:
        return observation
    if isinstance(space, Dict):
        return {name: _joined(each, observation[name], stacks, name) for name, each in space.spaces.items()}
    if isinstance(space, Tuple):
        return tuple(_joined(each, observation[index], stacks) for index, each in enumerate(space.spaces))
    return next(stacks)


def _stacked_space(space: Space[Any], frames: int, key: str = "") -> Space[Any]:
    if key in _UNSTACKED:
        return space
    if isinstance(space, Dict):
        return Dict({name: _stacked_space(each, frames, name) for name, each in space.spaces.items()})
    if isinstance(space, Tuple):
        return Tuple([_stacked_space(each, frames) for each in space.spaces])
    return _stacked_leaf(space, frames)


def _stacked_leaf(space: Space[Any], frames: int) -> Space[Any]:
    if isinstance(space, Box):
        low, high = (_repeated(bound, frames) for bound in (space.low, space.high))
        return Box(low, high, dtype=space.dtype.type)
    if isinstance(space, Discrete):
        return MultiDiscrete([space.n] * frames, dtype=space.dtype, start=[space.start] * frames)
    if isinstance(space, MultiDiscrete):
        nvec, start = (_repeated(each, frames) for each in (space.nvec, space.start))
        return MultiDiscrete(nvec, dtype=space.dtype, start=start)
    if isinstance(space, MultiBinary):
        return MultiBinary(_repeated(np.zeros(space.shape), frames).shape)
    raise ConfigError(f"frame_stack cannot stack the observation space {space}")


def _repeated(array: np.ndarray, frames: int) -> np.ndarray:
    row = array[None] if array.ndim in (0, *_IMAGE_DIMENSIONS) else array
    return np.concatenate([row] * frames)
