"""Whole episodes from batches that cut them anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.utils import NestedKey


class EpisodeBuffer:
    """Takes batches `[num_envs, T]` and gives back the episodes that are complete; the rest waits for its end.

    Args:
        keys: what to keep of each step; `("next", "done")` is kept in any case.
    """

    def __init__(self, keys: Sequence[NestedKey]) -> None:
        self.keys = list(dict.fromkeys([*keys, ("next", "done")]))
        self._unfinished: list[list[TensorDictBase]] = []

    def extend(self, batch: TensorDictBase) -> list[TensorDictBase]:
        """Add a batch.

        Returns:
            The episodes that ended in it, each `[steps]`, in the order in which they ended.
        """
        batch = batch.select(*self.keys)
        if not self._unfinished:
            self._unfinished = [[] for _ in range(len(batch))]
        done = batch.get(("next", "done")).squeeze(-1)
        start, finished = [0] * len(batch), []
        for time, index in done.transpose(0, 1).nonzero().tolist():
            pieces = [*self._unfinished[index], batch[index, start[index] : time + 1]]
            finished.append(torch.cat(pieces) if len(pieces) > 1 else pieces[0])
            self._unfinished[index], start[index] = [], time + 1
        for index, first in enumerate(start):
            if first < batch.shape[-1]:
                self._unfinished[index].append(batch[index, first:].clone())
        return finished

    def state_dict(self) -> dict[str, Any]:
        """The steps that wait for their episode's end, one entry an environment."""
        return {str(index): torch.cat(pieces) for index, pieces in enumerate(self._unfinished) if pieces} | {
            "environments": len(self._unfinished)
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`."""
        self._unfinished = [[] for _ in range(int(state["environments"]))]
        for name, steps in state.items():
            if name != "environments":
                # a checkpoint gives back entries, but no batch size
                self._unfinished[int(name)] = [TensorDict(steps).auto_batch_size_(1).clone()]
