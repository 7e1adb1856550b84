"""Epsilon-greedy exploration and its schedules."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.data import TensorSpec

from rlpipe.modules.actors import exploring, only_allowed
from rlpipe.modules.base import TensorModule, needs_discrete
from rlpipe.modules.choices import joint_choices

Schedule = Callable[[int, int], float]
"""A number as a function of the frames and the finished episodes so far."""


@dataclass(frozen=True)
class Linear:
    """From `start` to `end` in a straight line over `frames`, then `end`."""

    start: float
    end: float
    frames: int

    def __call__(self, frames: int, episodes: int) -> float:
        return self.start + (self.end - self.start) * min(1.0, frames / self.frames)


@dataclass(frozen=True)
class Exponential:
    """`end + (start - end) * exp(-frames / decay)`; `decay` is in frames."""

    start: float
    end: float
    decay: int

    def __call__(self, frames: int, episodes: int) -> float:
        return self.end + (self.start - self.end) * math.exp(-frames / self.decay)


@dataclass(frozen=True)
class Geometric:
    """`start`, times `factor` with each finished episode, never below `end`."""

    start: float
    end: float
    factor: float

    def __call__(self, frames: int, episodes: int) -> float:
        return max(self.end, self.start * self.factor**episodes)


@dataclass(frozen=True)
class Harmonic:
    """`start / (1 + finished episodes)`."""

    start: float

    def __call__(self, frames: int, episodes: int) -> float:
        return self.start / (1 + episodes)


ScheduleKind = Literal["linear", "exponential", "geometric", "harmonic"]
"""Schedules by name, see `make_schedule`."""


def make_schedule(kind: ScheduleKind, start: float, end: float, *, frames: int, factor: float) -> Schedule:
    """A schedule by its name.

    Args:
        kind: `linear` and `exponential` go by frames, `geometric` and `harmonic` by episodes.
        start: first value.
        end: last or lowest value; `harmonic` has none but 0.
        frames: where `linear` ends, or the decay constant of `exponential`.
        factor: of `geometric`.

    Raises:
        ValueError: an unknown `kind`.
    """
    schedules: dict[ScheduleKind, Schedule] = {
        "linear": Linear(start, end, frames),
        "exponential": Exponential(start, end, frames),
        "geometric": Geometric(start, end, factor),
        "harmonic": Harmonic(start),
    }
    if kind not in schedules:
        raise ValueError(f"kind is {kind!r}; allowed are {', '.join(map(repr, schedules))}")
    return schedules[kind]


class EpsilonGreedy(TensorModule):
    """Replace each `action` by a uniformly random one with probability epsilon, while exploring.

    Put it behind a greedy actor: `TensorDictSequential(q_actor, EpsilonGreedy(...))`. Epsilon changes only in
    `advance`, once a batch. Its state is two counters: frames and finished episodes.

    Args:
        action_spec: the environment's; must be Discrete, MultiDiscrete or MultiBinary.
        schedule: epsilon as a function of frames and finished episodes.
        generator: draws which actions are replaced, and by what; `None` is PyTorch's global one.
        masked: read `action_mask` `[*B, A]`, or flat `[*B, sum(nvec)]`, and draw among the allowed actions only.
        batch_dims: how many of the spec's leading dimensions are the environment's batch.

    Raises:
        ValueError: any other action spec, or more than 1,024 combinations.
    """

    def __init__(
        self,
        action_spec: TensorSpec,
        schedule: Schedule,
        generator: torch.Generator | None = None,
        masked: bool = False,
        batch_dims: int = 1,
    ) -> None:
        super().__init__()
        self.joint = joint_choices(action_spec, masked, batch_dims)
        hint = "a policy over Box actions, such as GaussianActor, has its own"
        self.actions = needs_discrete(self, action_spec, hint) if self.joint is None else self.joint.actions
        self.in_keys = ["action", "action_mask"] if masked else ["action"]
        self.out_keys = ["action"]
        self.masked = masked
        self.schedule, self.generator = schedule, generator
        self.frames = self.episodes = 0

    @property
    def epsilon(self) -> float:
        """The present probability of a random action."""
        return self.schedule(self.frames, self.episodes)

    def advance(self, batch: TensorDictBase) -> None:
        """Count a collected batch: its frames, and the episodes that ended in it."""
        self.frames += batch.numel()
        self.episodes += int(batch.get(("next", "done")).sum())

    def compute(self, action: Tensor, mask: Tensor | None = None) -> tuple[Tensor]:
        if not exploring():
            return (action,)
        batch = action.shape if self.joint is None else action.shape[: action.ndim - len(self.joint.shape)]
        random = self._draw(batch, mask, action.device)
        replaced = torch.rand(batch, generator=self.generator, device=action.device) < self.epsilon
        if self.joint is not None:
            random, replaced = self.joint.at(random), replaced.reshape(*batch, *[1] * len(self.joint.shape))
        return (torch.where(replaced, random, action),)

    def _draw(self, batch: torch.Size, mask: Tensor | None, device: torch.device) -> Tensor:
        """Numbers of actions, `[*B]`."""
        if mask is None:
            return torch.randint(self.actions, batch, generator=self.generator, device=device)
        if self.joint is not None:
            mask = self.joint.allowed(mask)
        lots = torch.rand(mask.shape, generator=self.generator, device=device)
        return only_allowed(lots, mask).argmax(-1)

    def get_extra_state(self) -> dict[str, int]:
        return {"frames": self.frames, "episodes": self.episodes}

    def set_extra_state(self, state: dict[str, int]) -> None:
        if any(type(state[name]) is not int or state[name] < 0 for name in ("frames", "episodes")):
            raise ValueError("frames and episodes of exploration are expected to be whole numbers")
        self.frames, self.episodes = state["frames"], state["episodes"]
