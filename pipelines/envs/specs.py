"""From Gymnasium's spaces to TorchRL's specs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Dict, Discrete, Space
from torchrl.data import Binary, Bounded, Categorical, Composite, TensorSpec, Unbounded

from rlpipe.errors import ConfigError
from rlpipe.pipelines.envs.observations import OBSERVED

_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def entries_of(space: Space[Any], actions: Space[Any]) -> dict[str, Space[Any]]:
    """The spaces of an observation's entries, by key; other keys, or a mask that does not fit, are a `ConfigError`."""
    if not isinstance(space, Dict):
        return {"observation": space}
    if "observation" not in space.spaces or not set(space) <= set(OBSERVED):
        raise ConfigError(
            f"the observation space is a Dict of {sorted(space)}; rlpipe takes one of 'observation', 'action_mask' "
            "and 'lives'"
        )
    if "action_mask" in space.spaces:
        mask = space["action_mask"]
        if not isinstance(actions, Discrete):
            raise ConfigError(f"the action space is {actions}; an action_mask needs Discrete actions")
        if mask.shape != (actions.n,):
            raise ConfigError(f"the action_mask has shape {mask.shape}, expected ({actions.n},): one number an action")
    return dict(space.items())


def observation_spec(spaces: dict[str, Space[Any]], batch: torch.Size) -> Composite:
    """Of the entries of an observation, and of what `VectorEnv` counts."""
    return Composite(
        **{key: _spec(space, key, batch) for key, space in spaces.items()},
        step_count=Unbounded((*batch, 1), dtype=torch.int64),
        episode_reward=Unbounded((*batch, 1), dtype=torch.float32),
        shape=batch,
    )


def action_spec(space: Space[Any], batch: torch.Size) -> TensorSpec:
    """Of the actions a policy draws: for a Box of integers they are floats, see `ActionCast`."""
    if not isinstance(space, Box):
        return _spec(space, "action", batch)
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


def _spec(space: Space[Any], key: str, batch: torch.Size) -> TensorSpec:
    if key == "action_mask" and space.shape is not None:
        return Binary(space.shape[0], torch.Size([*batch, *space.shape]), dtype=torch.bool)
    if isinstance(space, Discrete):
        return Categorical(int(space.n), batch, dtype=torch.int64)
    if isinstance(space, Box):
        return _bounded(space.low, space.high, batch)
    raise ConfigError(f"the {key} space is {space}; rlpipe takes Box and Discrete spaces")


def _bounded(low: np.ndarray, high: np.ndarray, batch: torch.Size) -> TensorSpec:
    lowest, highest = (torch.from_numpy(each).expand(*batch, *each.shape).clone() for each in (low, high))
    return Bounded(lowest, highest, shape=lowest.shape, dtype=lowest.dtype)
