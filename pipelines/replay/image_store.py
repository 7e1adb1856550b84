"""Frames of stacked observations, each kept once: a ring of pictures, and numbers that stand for them in batches."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import MemoryMappedTensor, TensorDictBase
from torch import Tensor
from torchrl.data import LazyMemmapStorage, LazyTensorStorage

from rlpipe.errors import ConfigError
from rlpipe.pipelines.checkpoints.state_checks import check_like
from rlpipe.pipelines.devices import check_disk

_WORD = 8
_MOST_WRITTEN = 2**62
_PIECE = 1 << 27
"""Bytes of a file of frames in a checkpoint."""


class FrameStore:
    """A ring of frames, and for each environment the number of the frames that it was seen with last.

    A batch's observations are stacks of C frames, newest last. `number` keeps the frames that are new, and puts their
    numbers in place of the stacks: 0, 1, 2 and so on, in the order in which they were kept. `stacks` gives the pixels
    back. A stack continues the one before if it is equal to it, pixel by pixel; no flag is trusted. Where one does not
    (an episode begins, a batch was left out, environments were reset), all its frames are kept anew.

    Args:
        capacity: frames; the oldest are overwritten.
        shape: of a stack: `[C, H, W]`.
        device: where the frames are kept.
        on_disk: map a file into memory instead, in the folder for temporary files. It is removed at once from the
            folder, so that its space is free again as soon as the process has ended, in whatever way. (On Windows, when
            it ends orderly.)

    Raises:
        ConfigError: the disk has no room for it.
    """

    def __init__(
        self, capacity: int, shape: Sequence[int], *, device: torch.device | str = "cpu", on_disk: bool = False
    ) -> None:
        self.capacity, self.shape, self.written = capacity, tuple(shape), 0
        self._tails = np.empty((0, self.shape[0]), np.int64)
        frame = torch.zeros(self.shape[1:], dtype=torch.uint8, device="cpu" if on_disk else device)
        self.ring = _map_file(capacity, frame) if on_disk else _allocate(capacity, frame)

    @property
    def oldest(self) -> int:
        """The number of the oldest frame that is kept."""
        return max(0, self.written - self.capacity)

    @property
    def frame_bytes(self) -> int:
        """Bytes of a frame."""
        return math.prod(self.shape[1:])

    @property
    def filled(self) -> int:
        """How many frames are kept."""
        return min(self.written, self.capacity)

    def number(self, batch: TensorDictBase) -> TensorDictBase:
        """Keep a batch's frames, and give a copy of it with their numbers in place of the pixels.

        Args:
            batch: `[num_envs, T]`, with `observation` and `("next", "observation")` `[num_envs, T, C, H, W]`, uint8. A
                row is the same environment in every batch; of batches with `("collector", "worker")` (int64, one number
                in the whole of it) the same of the same worker.

        Returns:
            The batch with both entries as `[num_envs, T, C]`, int64.

        Raises:
            ConfigError: the observations are no stacks of frames.
        """
        after = batch.get("next").copy()
        # time first, as the lean collector has it in memory
        root, last = batch.get("observation").transpose(0, 1), after.get("observation").transpose(0, 1)
        self._check(root)
        first = self._first_stream(batch)
        root_numbers, last_numbers = self._take_in(root, last, first)
        for place, numbers in ((batch := batch.copy(), root_numbers), (after, last_numbers)):
            place.set("observation", torch.from_numpy(numbers).transpose(0, 1).contiguous().to(root.device))
        return batch.set("next", after)

    def stacks(self, numbers: Tensor, device: torch.device | None = None) -> Tensor:
        """The pixels of frames that are kept.

        Args:
            numbers: any shape.
            device: where to; where the numbers are by default. From another one each frame is copied there once, and
                stacked there.

        Returns:
            `[*numbers.shape, H, W]`, uint8.
        """
        device = numbers.device if device is None else device
        slots = numbers.reshape(-1) % self.capacity
        if device == self.ring.device:
            found = self.ring.index_select(0, slots.to(device))
        else:
            once, places = torch.unique(slots.to(self.ring.device), return_inverse=True)
            found = self.ring.index_select(0, once).to(device).index_select(0, places.to(device))
        return found.reshape(*numbers.shape, *self.shape[1:])

    def _check(self, root: Tensor) -> None:
        if root.dtype is not torch.uint8 or tuple(root.shape[2:]) != self.shape:
            raise ConfigError(
                f"replay of frames is for observations of {list(self.shape)}, uint8; got {list(root.shape[2:])}, "
                f"{root.dtype}"
            )

    def _first_stream(self, batch: TensorDictBase) -> int:
        """Whose the batch's first row is; and room for all its rows."""
        worker = batch.get(("collector", "worker"), None)
        first = 0 if worker is None else int(worker.flatten()[0]) * batch.shape[0]
        missing = first + batch.shape[0] - len(self._tails)
        if missing > 0:
            self._tails = np.concatenate([self._tails, np.full((missing, self.shape[0]), -1)])
        return first

    def _take_in(self, root: Tensor, last: Tensor, first: int) -> tuple[np.ndarray, np.ndarray]:
        """The numbers `[T, num_envs, C]` of both, after keeping what is new in them."""
        streams = slice(first, first + root.shape[1])
        continues = torch.cat([self._continues(root[:1], streams), _same(root[1:], last[:-1]).all(-1)]).cpu().numpy()
        shifts = _same(last[:, :, :-1], root[:, :, 1:]).all(-1).cpu().numpy()
        if not self.written and not shifts.any():
            raise ConfigError(
                f"replay of frames needs observations that are stacks of frames, newest last; in none of the first "
                f"{shifts.size} steps did those of {list(self.shape)} move up by one; --replay-storage transitions "
                "keeps any"
            )
        fresh_root = self._keep(root, ~continues[..., None] & _differs(root, ~continues))
        of_last = _differs(last, ~shifts)
        of_last[shifts] = [False] * (self.shape[0] - 1) + [True]
        fresh_last = self._keep(last, of_last)
        root_numbers, last_numbers = np.empty_like(fresh_root), np.empty_like(fresh_last)
        before = self._tails[streams]
        for t in range(len(root)):
            root_numbers[t] = np.where(continues[t, :, None], before, fresh_root[t])
            moved = np.concatenate([root_numbers[t, :, 1:], fresh_last[t, :, -1:]], -1)
            last_numbers[t] = before = np.where(shifts[t, :, None], moved, fresh_last[t])
        self._tails[streams] = before
        return root_numbers, last_numbers

    def _continues(self, root: Tensor, streams: slice) -> Tensor:
        """Whether the first observations `[1, num_envs, C, H, W]` are the last ones of their streams."""
        tails = torch.from_numpy(self._tails[streams]).to(root.device)
        kept = (tails >= self.oldest).all(-1) & (tails >= 0).all(-1)
        if not kept.any():
            return kept.unsqueeze(0)
        return kept & _same(root, self.stacks(tails.clamp_min(0)).unsqueeze(0)).all(-1)

    def _keep(self, stacks: Tensor, new: np.ndarray) -> np.ndarray:
        """Keep the frames `new` `[T, num_envs, C]` of some stacks; returns their numbers, repeated until the next."""
        numbers = self.written + new.reshape(-1).cumsum().reshape(new.shape) - 1
        where = torch.from_numpy(np.flatnonzero(new)[-self.capacity :]).to(stacks.device)
        frames = stacks.reshape(-1, *self.shape[1:]).index_select(0, where).to(self.ring.device)
        self.written += int(new.sum())
        begin = (self.written - len(frames)) % self.capacity
        until_end = self.capacity - begin
        self.ring[begin : begin + len(frames)] = frames[:until_end]
        self.ring[: max(0, len(frames) - until_end)] = frames[until_end:]
        return numbers

    def state_dict(self) -> dict[str, Any]:
        """All but the frames, which `pieces` have."""
        return {"written": self.written, "tails": torch.from_numpy(self._tails)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`; the pieces then bring the frames.

        Raises:
            ValueError: it is none of frames like these.
        """
        check_like({"written": 0, "tails": None}, {**state, "tails": None})
        written, tails = state["written"], state["tails"]
        if not 0 <= written <= _MOST_WRITTEN:
            raise ValueError(f"written is {written}, expected a whole number from 0 to {_MOST_WRITTEN}")
        if not isinstance(tails, Tensor) or tails.dtype is not torch.int64 or tails.shape[1:] != self.shape[:1]:
            raise ValueError(f"tails are expected to be int64 of shape [streams, {self.shape[0]}]")
        if not ((tails >= -1) & (tails < written)).all():
            raise ValueError(f"tails name frames that were not written, of {written}")
        self.written, self._tails = written, tails.clone().numpy()

    def empty(self) -> None:
        """Forget all frames."""
        self.written, self._tails = 0, self._tails[:0]

    def pieces(self) -> dict[str, Piece]:
        """The frames as components of checkpoints, by name, each small beside the memory."""
        frames = max(1, _PIECE // self.frame_bytes)
        begins = range(0, self.capacity, frames)
        digits = len(str(len(begins) - 1))
        return {
            f"replay_frames_{index:0{digits}}": Piece(self, slice(begin, min(begin + frames, self.capacity)))
            for index, begin in enumerate(begins)
        }


class Piece:
    """Neighbouring places of a `FrameStore` as a component of checkpoints; its file serves until one is overwritten.

    Args:
        store: whose.
        places: of its ring.
    """

    def __init__(self, store: FrameStore, places: slice) -> None:
        self._store, self._places = store, places
        self._saved: tuple[int, Path, str] | None = None

    @property
    def newest(self) -> int:
        """The number of its newest frame; -1 without any. As long as it is the same, so are all of them."""
        capacity, last = self._store.capacity, self._store.written - 1
        # the last place that was written at or before the newest frame's, in this round or else in the last one
        rounds, place = divmod(last, capacity)
        if place < self._places.start:
            rounds, place = rounds - 1, capacity - 1
        return -1 if last < 0 or rounds < 0 else rounds * capacity + min(place, self._places.stop - 1)

    def saved_as(self) -> tuple[Path, str] | None:
        """A file that holds what is here now, and its digest."""
        return self._saved[1:] if self._saved is not None and self._saved[0] == self.newest else None

    def note_saved(self, file: Path, digest: str) -> None:
        """Take note of a file that holds what is here now."""
        self._saved = (self.newest, file, digest)

    @property
    def _frames(self) -> Tensor:
        """Those that are kept here."""
        return self._store.ring[
            self._places.start : max(self._places.start, min(self._places.stop, self._store.filled))
        ]

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint; the tensor is a view of the store's own."""
        return {"frames": self._frames if len(self._frames) else None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Bring the frames back, after the store's own state.

        Raises:
            ValueError: they are others, or not as many as the store has here.
        """
        check_like(self.state_dict(), state)
        if state["frames"] is not None:
            self._frames.copy_(state["frames"])


def _words(frames: Tensor) -> Tensor:
    """Frames `[*, H, W]` as rows of numbers as large as can be, which are compared sooner."""
    rows = frames.flatten(-2)
    aligned = rows.shape[-1] % _WORD == 0 and rows.storage_offset() % _WORD == 0 and rows.stride(-1) == 1
    aligned = aligned and all(stride % _WORD == 0 for stride in rows.stride()[:-1])
    return rows.view(torch.int64) if aligned else rows


def _same(frames: Tensor, others: Tensor) -> Tensor:
    """Which of `[*, H, W]` are equal: `[*]`."""
    one, other = _words(frames), _words(others)
    if one.dtype is not other.dtype:
        one, other = frames.flatten(-2), others.flatten(-2)
    return (one == other).all(-1)


def _differs(stacks: Tensor, which: np.ndarray) -> np.ndarray:
    """Which frames of the stacks `which` `[T, num_envs]` differ from the one before in the stack; its first does."""
    differs = np.ones((*which.shape, stacks.shape[2]), dtype=bool)
    if which.any():
        chosen = stacks[torch.from_numpy(which).to(stacks.device)]
        differs[which, 1:] = ~_same(chosen[:, 1:], chosen[:, :-1]).cpu().numpy()
    return differs


def _allocate(capacity: int, frame: Tensor) -> Tensor:
    storage = LazyTensorStorage(capacity, device=frame.device)
    return _whole(storage, frame)


def _whole(storage: LazyTensorStorage, frame: Tensor) -> Tensor:
    """All rows of a storage, written or not."""
    storage[0] = frame
    ring: Tensor = storage.state_dict()["_storage"]
    return ring.as_subclass(Tensor) if isinstance(ring, MemoryMappedTensor) else ring


def _map_file(capacity: int, frame: Tensor) -> Tensor:
    needed = capacity * frame.numel()
    with tempfile.TemporaryDirectory(prefix="rlpipe-frames-", ignore_cleanup_errors=True) as folder:
        check_disk("the frames take", needed, Path(folder), "name another folder in TMPDIR")
        # TorchRL would take SIGINT and SIGTERM for itself to clean up
        ring = _whole(LazyMemmapStorage(capacity, scratch_dir=folder, auto_cleanup=False), frame)
        file = os.open(next(Path(folder).glob("*.memmap")), os.O_RDWR)
    try:
        # else a disk that fills up would kill the process as it writes a frame
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file, 0, needed)
    except OSError as error:
        raise ConfigError(f"the disk has no room for a buffer of {needed:,} bytes: {error.strerror}") from error
    finally:
        os.close(file)
    return ring
