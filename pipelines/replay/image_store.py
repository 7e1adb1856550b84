"""Stacked images, each kept once: numbers stand for them in batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tensordict import TensorDictBase
from torch import Tensor

from rlpipe.errors import ConfigError
from rlpipe.pipelines.checkpoints.state_checks import check_like
from rlpipe.pipelines.replay.image_ring import ImageRing

_WORD = 8
_MOST_WRITTEN = 2**62


class ImageStore(ImageRing):
    """A ring of images that numbers the stacks of batches.

    A batch's observations are stacks of C images, newest last. `number` keeps the images that are new, and puts their
    numbers in place of the stacks. `stacks` gives the pixels back. A stack continues the one before if it is equal to
    it, pixel by pixel; flags are not trusted. If it is not (an episode begins, a batch was left out, environments were
    reset), all its images are kept again.

    Args:
        capacity: how many images are kept; the oldest are overwritten.
        shape: of a stack: `[C, H, W]`.
        options: of `ImageRing`.
    """

    def __init__(self, capacity: int, shape: Sequence[int], **options: Any) -> None:
        super().__init__(capacity, shape[1:], **options)
        self.shape = tuple(shape)
        # for each environment, the numbers of the stack that it was last seen with
        self._tails = np.empty((0, self.shape[0]), np.int64)

    def number(self, batch: TensorDictBase) -> TensorDictBase:
        """Keep a batch's images; returns a copy of the batch with their numbers, int64 `[num_envs, T, C]`, instead.

        Args:
            batch: `[num_envs, T]`, with `observation` and `("next", "observation")` `[num_envs, T, C, H, W]`, uint8. A
                row is the same environment in every batch; in batches with `("collector", "worker")` (int64, one number
                throughout), in every batch of that worker.

        Raises:
            ConfigError: the observations are no stacks of images.
        """
        after = batch.get("next").copy()
        # time first, as the lean collector has them in memory
        root, last = batch.get("observation").transpose(0, 1), after.get("observation").transpose(0, 1)
        if root.dtype is not torch.uint8 or tuple(root.shape[2:]) != self.shape:
            raise ConfigError(
                f"replay of images is for observations of {list(self.shape)}, uint8; got {list(root.shape[2:])}, "
                f"{root.dtype}"
            )
        first = self._first_stream(batch)
        root_numbers, last_numbers = self._take_in(root, last, first)
        for place, numbers in ((batch := batch.copy(), root_numbers), (after, last_numbers)):
            place.set("observation", torch.from_numpy(numbers).transpose(0, 1).contiguous().to(root.device))
        return batch.set("next", after)

    def _first_stream(self, batch: TensorDictBase) -> int:
        """The stream of the batch's first row; makes room for all its rows."""
        worker = batch.get(("collector", "worker"), None)
        first = 0 if worker is None else int(worker.flatten()[0]) * batch.shape[0]
        missing = first + batch.shape[0] - len(self._tails)
        if missing > 0:
            self._tails = np.concatenate([self._tails, np.full((missing, self.shape[0]), -1)])
        return first

    def _take_in(self, root: Tensor, last: Tensor, first: int) -> tuple[np.ndarray, np.ndarray]:
        """Keep the new images of both; returns their numbers `[T, num_envs, C]`."""
        streams = slice(first, first + root.shape[1])
        continues = torch.cat([self._continues(root[:1], streams), _same(root[1:], last[:-1]).all(-1)]).cpu().numpy()
        shifts = _same(last[:, :, :-1], root[:, :, 1:]).all(-1).cpu().numpy()
        if not self.written and not shifts.any():
            raise ConfigError(
                f"replay of images needs observations that are stacks of images, newest last; in none of the first "
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
        """Whether the first observations `[1, num_envs, C, H, W]` equal the last ones of their streams."""
        tails = torch.from_numpy(self._tails[streams]).to(root.device)
        kept = (tails >= self.oldest).all(-1) & (tails >= 0).all(-1)
        if not kept.any():
            return kept.unsqueeze(0)
        return kept & _same(root, self.stacks(tails.clamp_min(0)).unsqueeze(0)).all(-1)

    def _keep(self, stacks: Tensor, new: np.ndarray) -> np.ndarray:
        """Keep the images `new` `[T, num_envs, C]` of some stacks; returns their numbers, repeated until the next."""
        numbers = self.written + new.reshape(-1).cumsum().reshape(new.shape) - 1
        where = torch.from_numpy(np.flatnonzero(new)[-self.capacity :]).to(stacks.device)
        images = stacks.reshape(-1, *self.image_shape).index_select(0, where).to(self.ring.device)
        self.add(images, int(new.sum()))
        return numbers

    def state_dict(self) -> dict[str, Any]:
        """All but the images, which `pieces` have."""
        return {"written": self.written, "tails": torch.from_numpy(self._tails)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`, before the pieces are loaded; one of other images is a `ValueError`."""
        check_like({"written": 0, "tails": None}, {**state, "tails": None})
        written, tails = state["written"], state["tails"]
        if not 0 <= written <= _MOST_WRITTEN:
            raise ValueError(f"written is {written}, expected a whole number from 0 to {_MOST_WRITTEN}")
        if not isinstance(tails, Tensor) or tails.dtype is not torch.int64 or tails.shape[1:] != self.shape[:1]:
            raise ValueError(f"tails are expected to be int64 of shape [streams, {self.shape[0]}]")
        if not ((tails >= -1) & (tails < written)).all():
            raise ValueError(f"tails name images that were not written, of {written}")
        self.written, self._tails = written, tails.clone().numpy()

    def empty(self) -> None:
        """Forget all images."""
        self.written, self._tails = 0, self._tails[:0]


def _words(images: Tensor) -> Tensor:
    """Images `[*, H, W]` as rows of the largest integers possible, which are faster to compare."""
    rows = images.flatten(-2)
    aligned = rows.shape[-1] % _WORD == 0 and rows.storage_offset() % _WORD == 0 and rows.stride(-1) == 1
    aligned = aligned and all(stride % _WORD == 0 for stride in rows.stride()[:-1])
    return rows.view(torch.int64) if aligned else rows


def _same(images: Tensor, others: Tensor) -> Tensor:
    """Which images `[*, H, W]` are equal: `[*]`."""
    one, other = _words(images), _words(others)
    if one.dtype is not other.dtype:
        one, other = images.flatten(-2), others.flatten(-2)
    return (one == other).all(-1)


def _differs(stacks: Tensor, which: np.ndarray) -> np.ndarray:
    """Which images of the stacks `which` `[T, num_envs]` differ from the one before in the stack; the first does."""
    differs = np.ones((*which.shape, stacks.shape[2]), dtype=bool)
    if which.any():
        chosen = stacks[torch.from_numpy(which).to(stacks.device)]
        differs[which, 1:] = ~_same(chosen[:, 1:], chosen[:, :-1]).cpu().numpy()
    return differs
