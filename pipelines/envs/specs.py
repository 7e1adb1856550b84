"""From Gymnasium's spaces to TorchRL's specs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, Space
from torchrl.data import Binary, Bounded, Categorical, Composite, MultiCategorical, TensorSpec, Unbounded

from rlpipe.pipelines.envs.entries import Key, leaves_of
from rlpipe.pipelines.envs.observations import MASK

_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def observation_spec(spaces: dict[Key, Space[Any]], batch: torch.Size) -> Composite:
    """Of the entries of an observation, and of what `VectorEnv` counts."""
    spec = Composite(shape=batch)
    for key, space in spaces.items():
        spec[key] = _mask_spec(space, batch) if key == MASK else _spec(space, batch)
    spec["step_count"] = Unbounded((*batch, 1), dtype=torch.int64)
    spec["episode_reward"] = Unbounded((*batch, 1), dtype=torch.float32)
    return spec


def action_spec(space: Space[Any], batch: torch.Size) -> TensorSpec:
    """Of the actions a policy draws; for a Dict or Tuple a Composite, with a spec for each entry."""
    spec = Composite(shape=batch)
    for key, leaf in leaves_of(space, "action").items():
        spec[key] = _action_spec(leaf.space, batch)
    return spec["action"]


def _action_spec(space: Space[Any], batch: torch.Size) -> TensorSpec:
    """Of one action: for a Box of integers it is floats, see `ActionCast`."""
    if not isinstance(space, Box):
        return _spec(space, batch)
    dtype = np.dtype(space.dtype if space.dtype in _FLOATS else np.float64)
    # twice the bounds must be finite, for a uniform draw between them
    most = float(np.finfo(dtype).max) / 2
    low, high = (bound.astype(dtype) for bound in (space.low, space.high))
    low, high = (np.where(np.isfinite(each), each.clip(-most, most), each) for each in (low, high))
    return _bounded(low, high, batch)


def done_spec(batch: torch.Size) -> Composite:
    """Of the flags that end episodes."""
    flags = {key: Categorical(2, (*batch, 1), dtype=torch.bool) for key in ("done", "terminated", "truncated")}
    return Composite(flags, shape=batch)


def _mask_spec(space: Space[Any], batch: torch.Size) -> TensorSpec:
    numbers = math.prod(space.shape or ())
    return Binary(numbers, torch.Size([*batch, numbers]), dtype=torch.bool)


def _spec(space: Any, batch: torch.Size) -> TensorSpec:
    if isinstance(space, Discrete):
        return Categorical(int(space.n), batch, dtype=torch.int64)
    shape = torch.Size([*batch, *space.shape])
    if isinstance(space, Box):
        return _bounded(space.low, space.high, batch)
    if isinstance(space, MultiBinary):
        return Binary(space.shape[-1], shape, dtype=torch.int8)
    return MultiCategorical(torch.as_tensor(space.nvec.astype(np.int64)), shape=shape)


def _bounded(low: np.ndarray, high: np.ndarray, batch: torch.Size) -> TensorSpec:
    lowest, highest = (torch.from_numpy(each).expand(*batch, *each.shape).clone() for each in (low, high))
    return Bounded(lowest, highest, shape=lowest.shape, dtype=lowest.dtype)
