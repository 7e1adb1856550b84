"""`Explorer`: what every exploration module counts and saves."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import nn

from rlpipe.modules.base import TensorModule
from rlpipe.modules.exploration.schedules import Schedule


class Explorer(TensorModule):
    """A module behind an actor that changes its actions while exploring, by a number that follows a schedule.

    The number changes only in `advance`, once a batch: it is a function of two counters, frames and finished episodes,
    which are the module's state. `train` calls `advance` after each batch, unless the algorithm has done so.

    Args:
        schedule: of the number; or the number itself.
        generator: of random numbers; `None` is PyTorch's global one.
    """

    def __init__(self, schedule: Schedule | float, generator: torch.Generator | None) -> None:
        super().__init__()
        self.schedule, self.generator = schedule, generator
        self.frames = self.episodes = 0

    def now(self) -> float:
        """The present value of the schedule."""
        return self.schedule(self.frames, self.episodes) if callable(self.schedule) else self.schedule

    def advance(self, batch: TensorDictBase) -> None:
        """Count a collected batch: its frames, and the episodes that ended in it."""
        self.frames += batch.numel()
        self.episodes += int(batch.get(("next", "done")).sum())

    def get_extra_state(self) -> dict[str, Any]:
        return {"frames": self.frames, "episodes": self.episodes}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        if any(type(state[name]) is not int or state[name] < 0 for name in ("frames", "episodes")):
            raise ValueError("frames and episodes of exploration are expected to be whole numbers")
        self.frames, self.episodes = state["frames"], state["episodes"]


def scheduled(policy: nn.Module) -> list[Explorer]:
    """The parts of a policy that explore by a schedule."""
    return [each for each in policy.modules() if isinstance(each, Explorer) and callable(each.schedule)]


@contextlib.contextmanager
def advanced(explorers: Sequence[Explorer], batch: TensorDictBase) -> Iterator[None]:
    """Within, a batch is learned from; after it, each schedule that the algorithm did not advance is advanced."""
    before = [each.frames for each in explorers]
    yield
    for each, frames in zip(explorers, before, strict=True):
        if each.frames == frames:
            each.advance(batch)
