"""Replay of images: transitions hold the numbers of images, and minibatches the stacked pixels."""

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
from rlpipe.pipelines.replay.image_store import ImageStore

STACKS: tuple[NestedKey, NestedKey] = ("observation", ("next", "observation"))
"""The entries of a transition that are stacks of images."""
_TRIES = 32


class ImageReplay(ReplayBuffer):
    """A replay buffer of stacked images that keeps each image once, in an `ImageStore`, and stacks what it draws.

    A batch is numbered before it is stored, and before `NStep`, which then moves numbers instead of pixels:

        learn = off_policy(buffer, update, updates=4, warmup=1_000, keys=loss.in_keys)
        learn(look_ahead(buffer.number(batch)))

    It draws uniformly among all transitions whose images are still kept. Each step adds an image, and each episode one
    to C more; if there is no room for them, the oldest transitions are no longer drawn, although `len(buffer)` counts
    them. While all are kept, it draws what a plain buffer with the same generator draws.

    Args:
        capacity: transitions; the oldest go first.
        shape: of an observation: `[C, H, W]`, C images, newest last.
        num_images: how many are kept; `images_for(capacity, C)` by default, which is enough for episodes of 16 steps or
            more that begin with one image repeated, or of 64 that begin with C different ones.
        device: where minibatches and images are.
        on_disk: keep the images in a file; see `ImageRing`.
        batch_size: of minibatches.
        generator: to draw with.

    Raises:
        ConfigError: the disk has no room for it.
        ValueError: there are fewer images than transitions.
    """

    def __init__(
        self,
        capacity: int,
        shape: Sequence[int],
        *,
        num_images: int | None = None,
        device: torch.device | str = "cpu",
        on_disk: bool = False,
        batch_size: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        num_images = images_for(capacity, shape[0]) if num_images is None else num_images
        if num_images < capacity + shape[0]:
            raise ValueError(f"num_images is {num_images}; allowed is {capacity + shape[0]} or more, capacity + C")
        self.images = ImageStore(num_images, shape, device=device, on_disk=on_disk)
        super().__init__(
            storage=LazyTensorStorage(capacity, device=device),
            sampler=_KeptSampler(self.images, capacity),
            transform=_Stack(self.images),
            batch_size=batch_size,
            generator=generator,
        )

    def number(self, batch: TensorDictBase) -> TensorDictBase:
        """Keep a batch's images, and put their numbers in place of its observations; see `ImageStore.number`."""
        return self.images.number(batch)

    def extend(self, data: Any, *, update_priority: bool | None = None) -> Tensor:
        """Store transitions `[B]` whose observations are numbers of images `[B, C]`; returns their places."""
        places: Tensor = super().extend(data, update_priority=update_priority)
        self.sampler.note(places, data)
        return places

    def empty(self, empty_write_count: bool = True) -> None:
        """Forget all transitions and images."""
        super().empty(empty_write_count)
        self.images.empty()


class _KeptSampler(RandomSampler):
    """Draws uniformly among the transitions whose images are kept."""

    def __init__(self, images: ImageStore, capacity: int) -> None:
        self._images, self._oldest = images, torch.zeros(capacity, dtype=torch.int64)

    def note(self, places: Tensor, data: TensorDictBase) -> None:
        """Remember the oldest image of each of some transitions."""
        self._oldest[places.cpu()] = torch.cat([data.get(key) for key in STACKS], -1).amin(-1).cpu()

    def kept(self, length: int) -> Tensor:
        """The places, of the first `length`, that may be drawn."""
        return (self._oldest[:length] >= self._images.oldest).nonzero().squeeze(-1)

    def sample(self, storage: Storage, batch_size: int) -> tuple[Tensor, dict[str, Any]]:
        """Draw places `[B]`."""
        places = torch.empty(batch_size, dtype=torch.int64)
        gone = torch.ones(batch_size, dtype=torch.bool)
        for _ in range(_TRIES):
            places[gone] = self._draw(len(storage), int(gone.sum()))
            gone = self._oldest[places] < self._images.oldest
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
    """Puts pixels in place of the numbers in a minibatch."""

    def __init__(self, images: ImageStore) -> None:
        super().__init__(in_keys=list(STACKS), out_keys=list(STACKS))
        self._images = images

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        numbers = torch.stack([tensordict.get(key) for key in STACKS])
        for key, stacks in zip(STACKS, self._images.stacks(numbers), strict=True):
            tensordict.set(key, stacks)
        return tensordict


def images_for(capacity: int, stack: int, num_envs: int = 1) -> int:
    """How many images to keep for `capacity` transitions: one each, a sixteenth more, and a stack per environment."""
    return capacity + capacity // 16 + (num_envs + 1) * (stack + 1)


def numbered(kinds: Mapping[NestedKey, Kind], shape: Sequence[int]) -> dict[NestedKey, Kind]:
    """The kinds of a transition's entries if its observations are numbers."""
    numbers = Kind(torch.Size(shape[:1]), torch.int64)
    return {key: numbers if key in STACKS else kind for key, kind in kinds.items()}
