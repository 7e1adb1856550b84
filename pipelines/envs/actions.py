"""Actions: a policy's cast to an environment's action space, and random ones that it accepts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete, Space
from tensordict import TensorDictBase
from torchrl.envs import TransformedEnv

from rlpipe.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    from rlpipe.pipelines.envs.vector import VectorEnv

_WORDS = 2**64


class ActionCast:
    """Casts actions to an environment's action space: to its data type, and into its bounds.

    A Discrete action is counted from the start of the space. A Box action is clipped to the bounds, in the space's
    precision. For a Box of integers, the range is divided into as many equal parts as there are integers, from `low`
    for the first to `high` for the last, so that all are equally likely under a uniform draw; integers stay as they
    are.

    Raises:
        ConfigError: the space is neither a Box nor Discrete.
    """

    def __init__(self, space: Space[Any]) -> None:
        if not isinstance(space, (Box, Discrete)):
            raise ConfigError(f"the action space is {space}; rlpipe takes Box and Discrete spaces")
        self.dtype = np.dtype(space.dtype)
        self.start = int(space.start) if isinstance(space, Discrete) else 0
        self._discrete, self._whole = isinstance(space, Discrete), self.dtype.kind in "iub"
        if isinstance(space, Discrete):
            return
        # a missing bound becomes the largest finite number
        self.low, self.high = (each if self._whole else np.nan_to_num(each) for each in (space.low, space.high))
        if self._whole:
            low, high = _exact(space.low), _exact(space.high)
            width = np.asarray(high - low, dtype=object)
            self._first = np.asarray(low % _WORDS, dtype=object).astype(np.uint64)
            self._last = width.astype(np.float64)
            self._parts = np.asarray((width + 1) / np.where(width == 0, 1, width)).astype(np.float64)

    def __call__(self, action: np.ndarray) -> np.ndarray:
        """Cast actions `[num_envs, *action]`, in a new array; a NaN for a Box of integers is a `TrainingError`."""
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
        # 64-bit sums wrap around, and are right again when read as the type of the space
        words = self._first + np.where(highest, 0.0, part).astype(np.uint64)
        signed = words if self.dtype.kind == "u" else words.view(np.int64)
        return np.where(highest, self.high, signed.astype(self.dtype))


def _exact(bound: np.ndarray) -> np.ndarray:
    """A bound as Python integers, because neither int64 nor float64 holds the width of every range."""
    return np.array(bound.tolist(), dtype=object).reshape(bound.shape)


class MaskedEnv(TransformedEnv):
    """A `TransformedEnv` over a `VectorEnv` with an `action_mask`: its random actions are allowed ones.

    `VectorEnv` itself cannot do this: transforms, TorchRL's `ActionMask` among them, do not change the random actions
    of an environment that overrides `rand_action`.
    """

    def rand_action(self, tensordict: TensorDictBase | None = None) -> TensorDictBase:
        """Draw uniformly among the actions that `tensordict` allows; with TorchRL's `ActionMask`, as that does."""
        drawn: TensorDictBase = super().rand_action(tensordict)
        mask = drawn.get("action_mask", None)
        if mask is None or getattr(self.action_spec, "mask", None) is not None:
            return drawn
        return drawn.set("action", torch.rand(mask.shape).masked_fill(~mask, -1.0).argmax(-1))


class UnboundedEnv(TransformedEnv):
    """A `TransformedEnv` over a `VectorEnv` whose Box actions lack bounds: its random actions are finite.

    Without bounds they are standard normal; with one bound, the size of such a number away from it.
    """

    def rand_action(self, tensordict: TensorDictBase | None = None) -> TensorDictBase:
        drawn: TensorDictBase = super().rand_action(tensordict)
        action, (low, high) = drawn.get("action"), self.action_spec.space
        normal = torch.randn(action.shape, dtype=action.dtype)
        beyond = torch.where(
            low.isfinite(), low + normal.abs(), torch.where(high.isfinite(), high - normal.abs(), normal)
        )
        return drawn.set("action", torch.where(low.isfinite() & high.isfinite(), action, beyond))


def transformed_class(env: VectorEnv) -> type[TransformedEnv]:
    """The class to wrap `env` in, so that its random actions are valid."""
    if "action_mask" in env.spaces:
        return MaskedEnv
    space = env.envs.single_action_space
    return UnboundedEnv if isinstance(space, Box) and not space.is_bounded("both") else TransformedEnv
