"""Collects whole episodes from batches that cut them anywhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.utils import NestedKey

from rlpipe.pipelines.checkpoints.state_checks import Kind, check_rows


class EpisodeBuffer:
    """Takes batches `[num_envs, T]` and returns complete episodes; it keeps the rest until the episodes end.

    Args:
        keys: what to keep of each step; `("next", "done")` is always kept.
        kinds: returns the kinds of the entries `keys`; if given, a loaded state must match them.
        num_envs: how many environments there are; if given, a loaded state must match it.
        device: of the batches; a loaded state goes there.
    """

    def __init__(
        self,
        keys: Sequence[NestedKey],
        *,
        kinds: Callable[[Sequence[NestedKey]], Mapping[Any, Kind]] | None = None,
        num_envs: int | None = None,
        device: torch.device | None = None,
    ) -> None:
        self._kinds, self._num_envs, self._device = kinds, num_envs, device
        self.keys = list(dict.fromkeys([*keys, ("next", "done")]))
        self._unfinished: list[list[TensorDictBase]] = []

    def extend(self, batch: TensorDictBase) -> list[TensorDictBase]:
        """Add a batch; returns the episodes that ended in it, each `[steps]`, in the order in which they ended."""
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

    def drop_unfinished(self) -> None:
        """Forget the steps of episodes that have not ended."""
        self._unfinished = []

    def state_dict(self) -> dict[str, Any]:
        """The steps of unfinished episodes, one entry per environment."""
        return {"unfinished": [torch.cat(pieces) if pieces else None for pieces in self._unfinished]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`."""
        self._check(state["unfinished"])
        # a checkpoint holds no batch size
        self._unfinished = [
            [] if steps is None else [TensorDict(steps, device=self._device).auto_batch_size_(1)]
            for steps in state["unfinished"]
        ]

    def _check(self, unfinished: Any) -> None:
        if not isinstance(unfinished, list) or (self._num_envs not in (None, len(unfinished)) and unfinished):
            raise ValueError(f"unfinished is not a list with an entry for each of {self._num_envs} environments")
        for index, steps in enumerate(unfinished):
            if steps is not None and self._kinds is not None:
                check_rows(steps, self._kinds(self.keys), f"unfinished[{index}]")
