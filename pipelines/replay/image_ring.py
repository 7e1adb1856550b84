"""A ring of images in memory or in a file, and its pieces in checkpoints."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from tensordict import MemoryMappedTensor
from torch import Tensor
from torchrl.data import LazyMemmapStorage, LazyTensorStorage

from rlpipe.errors import ConfigError
from rlpipe.pipelines.checkpoints.state_checks import check_like
from rlpipe.pipelines.devices import check_disk

_PIECE = 1 << 27
"""Bytes of a file of images in a checkpoint."""


class ImageRing:
    """The newest images, numbered 0, 1, 2 and so on in the order in which they were added.

    Args:
        capacity: how many images are kept.
        shape: of one: `[H, W]`.
        device: where they are kept.
        on_disk: keep them in a memory-mapped file in the folder for temporary files instead. The file is removed from
            the folder at once, so that its space is free as soon as the process has ended, in whatever way. (On
            Windows, when it ends normally.)

    Raises:
        ConfigError: the disk has no room for it.
    """

    def __init__(
        self, capacity: int, shape: Sequence[int], *, device: torch.device | str = "cpu", on_disk: bool = False
    ) -> None:
        self.capacity, self.image_shape, self.written = capacity, tuple(shape), 0
        image = torch.zeros(self.image_shape, dtype=torch.uint8, device="cpu" if on_disk else device)
        self.ring = _map_file(capacity, image) if on_disk else _whole(LazyTensorStorage(capacity, device=device), image)

    @property
    def oldest(self) -> int:
        """The number of the oldest image that is kept."""
        return max(0, self.written - self.capacity)

    @property
    def image_bytes(self) -> int:
        return math.prod(self.image_shape)

    def add(self, images: Tensor, count: int) -> None:
        """Add `count` images, of which `images` `[n, H, W]` are the last: all, or as many as there is room for."""
        self.written += count
        begin = (self.written - len(images)) % self.capacity
        until_end = self.capacity - begin
        self.ring[begin : begin + len(images)] = images[:until_end]
        self.ring[: max(0, len(images) - until_end)] = images[until_end:]

    def stacks(self, numbers: Tensor) -> Tensor:
        """The pixels of images that are kept, uint8 `[*numbers.shape, H, W]`, on the device of `numbers`."""
        slots = numbers.reshape(-1) % self.capacity
        if numbers.device == self.ring.device:
            found = self.ring.index_select(0, slots)
        else:
            # each image is copied once
            once, places = torch.unique(slots.to(self.ring.device), return_inverse=True)
            found = self.ring.index_select(0, once).to(numbers.device).index_select(0, places.to(numbers.device))
        return found.reshape(*numbers.shape, *self.image_shape)

    @cached_property
    def _pieces(self) -> dict[str, Piece]:
        images = max(1, _PIECE // self.image_bytes)
        begins = range(0, self.capacity, images)
        digits = len(str(len(begins) - 1))
        return {
            f"replay_frames_{index:0{digits}}": Piece(self, slice(begin, min(begin + images, self.capacity)))
            for index, begin in enumerate(begins)
        }

    def pieces(self) -> dict[str, Piece]:
        """The images as components of checkpoints, by name, each small beside the memory; the same at every call."""
        return dict(self._pieces)


class Piece:
    """Neighbouring places of an `ImageRing` in checkpoints; their file is reused until one of them is overwritten."""

    def __init__(self, ring: ImageRing, places: slice) -> None:
        self._ring, self._places = ring, places
        self._saved: tuple[int, Path, str] | None = None

    @property
    def newest(self) -> int:
        """The number of the newest image here, -1 if there is none; while it stays the same, so do all images here."""
        capacity, last = self._ring.capacity, self._ring.written - 1
        # the last place written at or before the newest image's, in this round or else in the last one
        rounds, place = divmod(last, capacity)
        if place < self._places.start:
            rounds, place = rounds - 1, capacity - 1
        return -1 if last < 0 or rounds < 0 else rounds * capacity + min(place, self._places.stop - 1)

    def saved_as(self) -> tuple[Path, str] | None:
        """A file that holds the present images, and its digest."""
        return self._saved[1:] if self._saved is not None and self._saved[0] == self.newest else None

    def note_saved(self, file: Path, digest: str) -> None:
        """Remember a file that holds the present images."""
        self._saved = (self.newest, file, digest)

    @property
    def _images(self) -> Tensor:
        begin = self._places.start
        return self._ring.ring[begin : max(begin, min(self._places.stop, self._ring.written))]

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint; the tensor is a view of the ring."""
        return {"frames": self._images if len(self._images) else None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the images, after the ring's state; others than `state_dict` has are a `ValueError`."""
        check_like(self.state_dict(), state)
        if state["frames"] is not None:
            self._images.copy_(state["frames"])


def _whole(storage: LazyTensorStorage, image: Tensor) -> Tensor:
    """All rows of a storage, written or not."""
    storage[0] = image
    ring: Tensor = storage.state_dict()["_storage"]
    return ring.as_subclass(Tensor) if isinstance(ring, MemoryMappedTensor) else ring


def _map_file(capacity: int, image: Tensor) -> Tensor:
    needed = capacity * image.numel()
    with tempfile.TemporaryDirectory(prefix="rlpipe-frames-", ignore_cleanup_errors=True) as folder:
        check_disk("the images take", needed, Path(folder), "name another folder in TMPDIR")
        # with `auto_cleanup` TorchRL would handle SIGINT and SIGTERM itself
        ring = _whole(LazyMemmapStorage(capacity, scratch_dir=folder, auto_cleanup=False), image)
        file = os.open(next(Path(folder).glob("*.memmap")), os.O_RDWR)
    try:
        # otherwise a full disk kills the process when it writes an image
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file, 0, needed)
    except OSError as error:
        raise ConfigError(f"the disk has no room for a buffer of {needed:,} bytes: {error.strerror}") from error
    finally:
        os.close(file)
    return ring
