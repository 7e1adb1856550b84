"""Uniformly random actions at the start of training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torchrl.data import TensorSpec

from rlpipe.modules.actors import bounds_of, box_shape, exploring
from rlpipe.modules.base import Keys
from rlpipe.modules.exploration.explorer import Explorer

if TYPE_CHECKING:
    from typing_extensions import Unpack


@dataclass(frozen=True)
class _Until:
    """1 in the first `frames` frames, then 0; unlike a lambda, it can be sent to another process."""

    frames: int

    def __call__(self, frames: int, episodes: int) -> float:
        return float(frames < self.frames)


class RandomWarmup(Explorer):
    """Replace each Box `action` by a uniformly random one in the first `frames` frames, while exploring.

    Put it behind an actor and its noise, if any: `TensorDictSequential(actor, noise, RandomWarmup(...))`. It counts
    frames only in `advance`, once a batch, so that a batch that began within the first frames is random to its end. In
    a dimension without two finite bounds, actions are standard normal, clipped to the bound.

    Args:
        action_spec: the environment's, batch dimensions included; must be a Box of floats.
        frames: of all environments together.
        generator: draws the actions; `None` is PyTorch's global one.
        batch_dims: how many of the spec's leading dimensions are the environment's batch.
        keys: `in_keys`, in place of `["action"]`, and `out_keys`, see `TensorModule`.

    Raises:
        ValueError: any other action spec, or keys of another number.
    """

    low: Tensor
    width: Tensor
    high: Tensor

    def __init__(
        self,
        action_spec: TensorSpec,
        frames: int,
        generator: torch.Generator | None = None,
        batch_dims: int = 1,
        **keys: Unpack[Keys],
    ) -> None:
        super().__init__(_Until(frames), generator)
        low, high = bounds_of(action_spec, box_shape(self, action_spec, batch_dims, "EpsilonGreedy"))
        for name, value in (("low", low), ("high", high), ("width", high - low)):
            self.register_buffer(name, value, persistent=False)
        self.name_keys(["action"], [], ["action"], **keys)

    def compute(self, action: Tensor) -> tuple[Tensor]:
        if not exploring() or not self.now():
            return (action,)
        normal = torch.empty_like(action).normal_(generator=self.generator)
        uniform = self.low + self.width * torch.rand(
            action.shape, generator=self.generator, dtype=action.dtype, device=action.device
        )
        return (torch.where(self.width.isfinite(), uniform, normal).clamp(self.low, self.high),)
