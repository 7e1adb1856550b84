"""Actions: a policy's cast to an environment's action space, and random ones that it accepts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Tuple
from tensordict import TensorDictBase
from torchrl.data import Bounded, MultiCategorical, TensorSpec
from torchrl.envs import TransformedEnv

from rlpipe.errors import ConfigError, TrainingError
from rlpipe.pipelines.envs.entries import Arrays, leaves_of, nest
from rlpipe.pipelines.envs.observations import MASK

if TYPE_CHECKING:
    from rlpipe.pipelines.envs.vector import VectorEnv

_WORDS = 2**64


class ActionCast:
    """Casts actions to an environment's action space: to its data type, and into its bounds.

    Discrete and MultiDiscrete actions are counted from the start of the space. A Box action is clipped to the bounds,
    in the space's precision. For a Box of integers, the range is divided into as many equal parts as there are
    integers, from `low` for the first to `high` for the last, so that all are equally likely under a uniform draw;
    integers stay as they are.

    Raises:
        ConfigError: the space is a Dict, a Tuple, or of a kind that rlpipe does not take; see `cast_of`.
    """

    def __init__(self, space: Space[Any]) -> None:
        if not isinstance(space, (Box, Discrete, MultiDiscrete, MultiBinary)):
            raise ConfigError(f"the action space is {space}; expected Box, Discrete, MultiDiscrete or MultiBinary")
        self.dtype = np.dtype(space.dtype)
        self.start: int | np.ndarray = getattr(space, "start", 0)
        self._discrete, self._whole = not isinstance(space, Box), self.dtype.kind in "iub"
        if not isinstance(space, Box):
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


def cast_of(space: Space[Any]) -> Callable[[Any], Any]:
    """A function from actions to those of the space: an `ActionCast`, or for a Dict or Tuple one for each entry.

    That takes arrays `[num_envs, *entry]` by the keys of `leaves_of`, and returns them in the form of the space.
    """
    if not isinstance(space, (Dict, Tuple)):
        return ActionCast(space)
    leaves = leaves_of(space, "action")
    casts = {key: ActionCast(leaf.space) for key, leaf in leaves.items()}

    def cast(actions: Arrays) -> Any:
        return nest(leaves, {key: each(actions[key]) for key, each in casts.items()}, space)

    return cast


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
        mask = drawn.get(MASK, None)
        if mask is None or getattr(self.action_spec, "mask", None) is not None:
            return drawn
        lots = torch.rand(mask.shape).masked_fill(~mask, -1.0)
        # in the order of the mask; `action_keys` are sorted
        for key in self.full_action_spec.keys(True, True):
            action = drawn.get(key)
            sizes = _choices(self.full_action_spec[key], action[0].numel())
            parts = [part.argmax(-1) for part in lots[..., : sum(sizes)].split(sizes, -1)]
            lots = lots[..., sum(sizes) :]
            drawn.set(key, torch.stack(parts, -1).reshape(action.shape))
        return drawn


class UnboundedEnv(TransformedEnv):
    """A `TransformedEnv` over a `VectorEnv` whose Box actions lack bounds: its random actions are finite.

    Without bounds they are standard normal; with one bound, the size of such a number away from it.
    """

    def rand_action(self, tensordict: TensorDictBase | None = None) -> TensorDictBase:
        drawn: TensorDictBase = super().rand_action(tensordict)
        for key in self.action_keys:
            spec = self.full_action_spec[key]
            if isinstance(spec, Bounded):
                drawn.set(key, self._bounded(drawn.get(key), spec))
        return drawn

    @staticmethod
    def _bounded(action: torch.Tensor, spec: Bounded) -> torch.Tensor:
        low, high = spec.space
        normal = torch.randn(action.shape, dtype=action.dtype)
        beyond = torch.where(
            low.isfinite(), low + normal.abs(), torch.where(high.isfinite(), high - normal.abs(), normal)
        )
        return torch.where(low.isfinite() & high.isfinite(), action, beyond)


def _choices(spec: TensorSpec, numbers: int) -> list[int]:
    """How many choices each of an action's `numbers` has, for a Discrete or MultiDiscrete action."""
    if isinstance(spec, MultiCategorical):
        return [int(each) for each in spec.nvec.reshape(-1, numbers)[0]]
    return [int(spec.space.n)]


def transformed_class(env: VectorEnv) -> type[TransformedEnv]:
    """The class to wrap `env` in, so that its random actions are valid."""
    if MASK in env.spaces:
        return MaskedEnv
    spaces = [leaf.space for leaf in leaves_of(env.envs.single_action_space, "action").values()]
    unbounded = any(isinstance(space, Box) and not space.is_bounded("both") for space in spaces)
    return UnboundedEnv if unbounded else TransformedEnv
