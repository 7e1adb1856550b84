"""Shaped rewards for CartPole recipes, and clipped ones for Atari: functions for `ShapeReward`, by name.

Each takes a step's `next` entries and returns the reward to learn from, `[*B, 1]`. Observations of `balance` are
CartPole's: cart position, cart velocity, pole angle, pole velocity.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from tensordict import TensorDictBase
from torch import Tensor

from rlpipe.kinds import RewardShaping

_ANGLE, _POSITION = 0.1, 0.3


def balance(after: TensorDictBase) -> Tensor:
    """-20 for a fall; else -1 for a pole angle beyond 0.1 rad and -2 for a cart beyond 0.3, +1 for neither."""
    observation = after.get("observation")
    leaning = observation[..., 2:3].abs() > _ANGLE
    away = observation[..., 0:1].abs() > _POSITION
    reward = torch.where(leaning | away, -1.0 * leaning - 2.0 * away, 1.0)
    return torch.where(after.get("terminated"), -20.0, reward)


def outcome(after: TensorDictBase, steps: int) -> Tensor:
    """0 until the episode ends; then +1 if it lasted `steps` steps, else -1."""
    return after.get("done") * torch.where(after.get("step_count") >= steps, 1.0, -1.0)


def fall(after: TensorDictBase, steps: int) -> Tensor:
    """The environment's own reward, but -10 where the episode terminates before `steps` steps."""
    fell = after.get("terminated") & (after.get("step_count") < steps)
    return torch.where(fell, -10.0, after.get("reward"))


def clip(after: TensorDictBase) -> Tensor:
    """The environment's own reward, but at least -1 and at most 1: Mnih et al. 2015, Methods."""
    return after.get("reward").clamp(-1.0, 1.0)


def make_shaping(kind: RewardShaping, steps: int) -> Callable[[TensorDictBase], Tensor] | None:
    """A shaping by its name; `None` for the environment's own reward. `steps` is how long an episode must last."""
    functions: dict[RewardShaping, Callable[[TensorDictBase], Tensor] | None] = {
        "none": None,
        "balance": balance,
        "outcome": lambda after: outcome(after, steps),
        "fall": lambda after: fall(after, steps),
        "clip": clip,
    }
    return functions[kind]
