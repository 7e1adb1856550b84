"""Prioritised replay: a sampler for TorchRL's replay buffers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchrl.data.replay_buffers.samplers import Sampler
from torchrl.data.replay_buffers.storages import Storage

from rlpipe.arithmetic import ceil_div
from rlpipe.pipelines.checkpoints.state_checks import check_like
from rlpipe.pipelines.devices import device_of

_ROW = 32


class PrioritizedSampler(Sampler):
    """Draw transitions by their priority, Schaul et al. 2016, section 3.3: with probability `P(i) = p_i / sum_j p_j`.

    `p_i` is `(priority + eps)^alpha`. A minibatch has importance weights, `priority_weight` `[B]`, float32:
    `(n P(i))^-beta`, divided by the largest of these among the n transitions stored. A new transition gets the largest
    priority so far, so that it is soon drawn.

    TorchRL's sampler of this name does the same with compiled trees, which its wheels have only for some versions of
    PyTorch, and which checkpoints cannot hold. This one sums the priorities at each draw.

    Args:
        max_capacity: that of the buffer's storage.
        alpha: 0 draws uniformly, 1 in proportion to the priority.
        beta: 0 leaves the bias of such draws, 1 corrects it; may be set at any time.
        eps: added to each priority, so that none is 0.

    Raises:
        ValueError: `alpha` or `beta` below 0, or `eps` not above it.
    """

    def __init__(self, max_capacity: int, alpha: float = 0.6, beta: float = 0.4, eps: float = 1e-6) -> None:
        if not (0 <= alpha < math.inf and 0 <= beta < math.inf and 0 < eps < math.inf):
            raise ValueError(f"alpha, beta and eps are {alpha}, {beta}, {eps}; allowed are 0 or more, and eps above 0")
        self.alpha, self.beta, self.eps = alpha, beta, eps
        self._rows = np.zeros((ceil_div(max_capacity, _ROW), _ROW))
        self._raised = self._rows.reshape(-1)[:max_capacity]
        self._empty()

    @property
    def capacity(self) -> int:
        """How many transitions it has room for."""
        return len(self._raised)

    def _empty(self) -> None:
        self._raised[:] = 0.0
        self._largest = 1.0

    def sample(self, storage: Storage, batch_size: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Draw the places of a minibatch `[B]`, with their `priority_weight`; by the buffer's generator."""
        raised = self._raised[: len(storage)]
        if not len(raised):
            raise ValueError("the buffer is empty; there is nothing to draw")
        if not raised.all():
            raise ValueError(f"{type(self).__name__} knows of fewer transitions than the {len(storage)} that are held")
        # first draw the row, then the place in it, which needs no sums of other rows
        rows = np.cumsum(self._rows[: ceil_div(len(raised), _ROW)].sum(1))
        device = "cpu" if self._rng is None else self._rng.device
        lots = torch.rand(batch_size, generator=self._rng, dtype=torch.float64, device=device).cpu().numpy() * rows[-1]
        row = np.searchsorted(rows, lots, side="right").clip(max=len(rows) - 1)
        lots -= np.where(row > 0, rows[row - 1], 0.0)
        place = (np.cumsum(self._rows[row], 1) <= lots[:, None]).sum(1)
        # sums are rounded, so a draw may lie beyond the last
        index = (row * _ROW + place.clip(max=_ROW - 1)).clip(max=len(raised) - 1)
        weight = (raised[index] / raised.min()) ** -self.beta
        where = device_of(storage)
        return torch.from_numpy(index).to(where), {"priority_weight": torch.from_numpy(weight).float().to(where)}

    def extend(self, index: int | Tensor, *, storage: Storage | None = None) -> None:
        """Give new transitions the largest priority."""
        self._raised[_on_host(index)] = (self._largest + self.eps) ** self.alpha

    add = mark_update = extend

    def update_priority(self, index: int | Tensor, priority: float | Tensor, *, storage: Storage | None = None) -> None:
        """Set the priority of the transitions at `index` `[B]`; if one occurs twice, the last counts.

        Args:
            index: as `sample` gave it.
            priority: 0 or more, `[B]` or `[B, 1]`; such as the absolute TD error.
            storage: not used.

        Raises:
            ValueError: not one number a transition, or one that is negative, infinite or NaN.
        """
        places, values = _on_host(index).reshape(-1), _on_host(torch.as_tensor(priority).detach()).astype(np.float64)
        if values.size != places.size:
            raise ValueError(f"priority has shape {list(values.shape)}, expected [{places.size}]: one a transition")
        if not (np.isfinite(values).all() and (values >= 0).all()):
            raise ValueError("priority has numbers that are negative, infinite or NaN; pass the absolute TD error")
        self._largest = max(self._largest, float(values.max()))
        self._raised[places] = (values.reshape(-1) + self.eps) ** self.alpha

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint; the array is the sampler's own."""
        return {"alpha": self.alpha, "beta": self.beta, "largest": self._largest, "raised": self._raised}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`; another capacity, or numbers that are no priorities, are a `ValueError`."""
        check_like(self.state_dict(), state, "priorities")
        numbers = np.array([state["alpha"], state["beta"], state["largest"]])
        if not all(np.isfinite(each).all() and (each >= 0).all() for each in (numbers, state["raised"])):
            raise ValueError("priorities has numbers that are negative, infinite or NaN")
        self.alpha, self.beta, self._largest = map(float, numbers)
        self._raised[:] = state["raised"]

    def dumps(self, path: str | Path) -> None:
        """Not offered: `ReplayState` holds the priorities."""
        raise NotImplementedError("put the buffer into a checkpoint by rlpipe's ReplayState")

    loads = dumps


def _on_host(index: int | Tensor) -> np.ndarray:
    return np.asarray(index.cpu() if isinstance(index, Tensor) else index)
