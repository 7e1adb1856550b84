"""Collecting the numbers of several batches for one line of metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from tensordict import TensorDictBase

from rlpipe.pipelines.checkpoints.state_checks import check_like, check_numbers
from rlpipe.pipelines.devices import moved
from rlpipe.pipelines.training.finished_episodes import Ended

_HOST = torch.device("cpu")


@dataclass
class Line:
    """The batches since the last line of metrics: their scalars, and the episodes that ended in them."""

    scalars: list[dict[str, float]] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    successes: list[float] = field(default_factory=list)
    infos: list[dict[str, list[float]]] = field(default_factory=list)

    def add(self, scalars: dict[str, float], ended: Ended) -> None:
        """Add a batch: its scalars, and the episodes that ended in it."""
        self.scalars.append(scalars)
        self.returns += ended.returns
        self.lengths += ended.lengths
        self.successes += ended.successes
        if ended.infos:
            self.infos.append({metric: list(sums) for metric, sums in ended.infos.items()})

    def state_dict(self) -> dict[str, Any]:
        """The batches since the last line, for a checkpoint."""
        return dict(vars(self))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`."""
        # a checkpoint of an older version has no such entries
        state = {"successes": [], "infos": [], **state}
        check_like(vars(Line()), state)
        for name in ("returns", "lengths", "successes"):
            check_numbers(state[name], name)
        for row in state["scalars"]:
            check_numbers(list(row.values()), "a row of scalars")
        for metric, sums in [pair for row in state["infos"] for pair in row.items()]:
            check_numbers(sums, metric)
        vars(self).update(state)

    def clear(self) -> None:
        """Begin the next line."""
        self.scalars, self.returns, self.lengths, self.successes, self.infos = [], [], [], [], []

    def means(self) -> dict[str, float]:
        """Each scalar's mean over the batches that have it, and the sum of `updates`.

        If environments report successes, `success_rate` is their mean over the episodes. Other numbers of infos are
        means over all steps or episodes that have them.
        """
        keys = dict.fromkeys(key for row in self.scalars for key in row)
        columns = {key: [row[key] for row in self.scalars if key in row] for key in keys}
        rate = {"success_rate": sum(self.successes) / len(self.successes)} if self.successes else {}
        means = {key: sum(each) if key == "updates" else sum(each) / len(each) for key, each in columns.items()}
        # an algorithm may report a number of this name itself
        return rate | self._infos() | means

    def _infos(self) -> dict[str, float]:
        sums: dict[str, tuple[float, float]] = {}
        for row in self.infos:
            for metric, (total, count) in row.items():
                before = sums.get(metric, (0.0, 0))
                sums[metric] = before[0] + total, before[1] + count
        # numbers near the largest of float64 may have an infinite sum
        return {metric: total / count for metric, (total, count) in sums.items() if count and math.isfinite(total)}


def numbers_of(scalars: TensorDictBase) -> dict[str, float]:
    """What `learn` returned, as numbers.

    Raises:
        ValueError: it is no TensorDict of scalars with `updates` among them.
    """
    if not isinstance(scalars, TensorDictBase) or "updates" not in scalars.keys():  # noqa: SIM118 - no Mapping
        found = sorted(scalars.keys()) if isinstance(scalars, TensorDictBase) else type(scalars).__name__
        raise ValueError(f"learn returned {found}, expected a TensorDict of scalars with 'updates' among them")
    for key, value in scalars.items():
        if value.numel() != 1:
            raise ValueError(f"learn returned {key!r} of shape {list(value.shape)}, expected a scalar")
    return {key: value.item() for key, value in zip(scalars.keys(), moved(list(scalars.values()), _HOST), strict=True)}
