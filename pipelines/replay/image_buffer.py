"""Replay of pixels: transitions that know their frames by number, and minibatches that have them stacked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor
from torchrl.data import LazyTensorStorage, ReplayBuffer
from torchrl.data.replay_buffers import RandomSampler
from torchrl.data.replay_buffers.storages import Storage
from torchrl.envs import Transform

from rlpipe.pipelines.checkpoints.state_checks import Kind
from rlpipe.pipelines.replay.image_store import FrameStore

STACKS: tuple[NestedKey, NestedKey] = ("observation", ("next", "observation"))
"""The entries of a transition that are stacks of frames."""
_TRIES = 32


class FrameReplay(ReplayBuffer):
    """A replay buffer of stacked frames that keeps each frame once, in a `FrameStore`, and stacks what it draws.

    A batch is numbered before it is stored, and before `NStep`, which then moves numbers instead of pixels:

        learn = off_policy(buffer, update, updates=4, warmup=1_000, keys=loss.in_keys)
        learn(look_ahead(buffer.number(batch)))

    It draws uniformly among all transitions whose frames are still kept. Each step needs a frame, and each episode one
    to C more; where these do not do, the oldest transitions are drawn no more, although they count in `len(buffer)`.
    While all are kept, it draws what a plain buffer of the same generator draws.

    Args:
        capacity: transitions; the oldest go first.
        shape: of an observation: `[C, H, W]`, C frames, newest last.
        num_frames: how many are kept; `frames_for(capacity, C)` by default, which does for episodes of 16 steps or more
            that begin with one frame repeated, or of 64 that begin with C different ones.
        device: where minibatches, and the frames, are.
        on_disk: keep the frames in a file; see `FrameStore`.
        batch_size: of minibatches.
        generator: to draw with.

    Raises:
        ConfigError: the disk has no room for it.
        ValueError: there are fewer frames than transitions.
    """

    def __init__(
        self,
        capacity: int,
        shape: Sequence[int],
        *,
        num_frames: int | None = None,
        device: torch.device | str = "cpu",
        on_disk: bool = False,
        batch_size: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        num_frames = frames_for(capacity, shape[0]) if num_frames is None else num_frames
        if num_frames < capacity + shape[0]:
            raise ValueError(f"num_frames is {num_frames}; allowed is {capacity + shape[0]} or more, capacity + C")
        self.frames = FrameStore(num_frames, shape, device=device, on_disk=on_disk)
        super().__init__(
            storage=LazyTensorStorage(capacity, device=device),
            sampler=_KeptSampler(self.frames, capacity),
            transform=_Stack(self.frames),
            batch_size=batch_size,
            generator=generator,
        )

    def number(self, batch: TensorDictBase) -> TensorDictBase:
        """Keep a batch's frames, and put their numbers in place of its observations; see `FrameStore.number`."""
        return self.frames.number(batch)

    def extend(self, data: Any, *, update_priority: bool | None = None) -> Tensor:
        """Store transitions `[B]` whose observations are numbers of frames `[B, C]`; returns their places."""
        places: Tensor = super().extend(data, update_priority=update_priority)
        self.sampler.note(places, data)
        return places

    def empty(self, empty_write_count: bool = True) -> None:
        """Forget all transitions and frames."""
        super().empty(empty_write_count)
        self.frames.empty()


class _KeptSampler(RandomSampler):
    """Draws uniformly among the transitions whose frames are kept.

    Args:
        frames: which.
        capacity: transitions.
    """

    def __init__(self, frames: FrameStore, capacity: int) -> None:
        self._frames, self._oldest = frames, torch.zeros(capacity, dtype=torch.int64)

    def note(self, places: Tensor, data: TensorDictBase) -> None:
        """Remember the oldest frame of each of some transitions."""
        self._oldest[places.cpu()] = torch.cat([data.get(key) for key in STACKS], -1).amin(-1).cpu()

    def kept(self, length: int) -> Tensor:
        """The places of those that may be drawn, of the first `length`."""
        return (self._oldest[:length] >= self._frames.oldest).nonzero().squeeze(-1)

    def sample(self, storage: Storage, batch_size: int) -> tuple[Tensor, dict[str, Any]]:
        """Draw places `[B]`."""
        places = torch.empty(batch_size, dtype=torch.int64)
        gone = torch.ones(batch_size, dtype=torch.bool)
        for _ in range(_TRIES):
            places[gone] = self._draw(len(storage), int(gone.sum()))
            gone = self._oldest[places] < self._frames.oldest
            if not gone.any():
                break
        else:
            kept = self.kept(len(storage))
            places[gone] = kept[self._draw(len(kept), int(gone.sum()))]
        return places.to(storage.device), {}

    def _draw(self, below: int, count: int) -> Tensor:
        if not below:
            raise ValueError("the buffer is empty; there is nothing to draw")
        return torch.randint(below, (count,), generator=self._rng)


class _Stack(Transform):
    """Puts the pixels in place of the numbers of a minibatch."""

    def __init__(self, frames: FrameStore) -> None:
        super().__init__(in_keys=list(STACKS), out_keys=list(STACKS))
        self._frames = frames

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """See the class."""
        numbers = torch.stack([tensordict.get(key) for key in STACKS])
        for key, stacks in zip(STACKS, self._frames.stacks(numbers), strict=True):
            tensordict.set(key, stacks)
        return tensordict


def frames_for(capacity: int, stack: int, num_envs: int = 1) -> int:
    """How many frames to keep for so many transitions: one each, a sixteenth more, and a stack an environment."""
    return capacity + capacity // 16 + (num_envs + 1) * (stack + 1)


def numbered(kinds: Mapping[NestedKey, Kind], shape: Sequence[int]) -> dict[NestedKey, Kind]:
    """What a transition consists of if its observations are numbers."""
    numbers = Kind(torch.Size(shape[:1]), torch.int64)
    return {key: numbers if key in STACKS else kind for key, kind in kinds.items()}
