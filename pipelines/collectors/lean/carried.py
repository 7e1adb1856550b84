"""What recurrent policies carry from step to step, without the transforms that TorchRL keeps it in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rlpipe.modules.recurrent import FIRST, after, carried_specs, state_specs
from rlpipe.pipelines.checkpoints.state_checks import check_like
from rlpipe.pipelines.envs.entries import Key, name_of
from rlpipe.pipelines.envs.tensor.env import as_column

Tensors = dict[Key, Tensor]


class Carried:
    """The states of a policy's recurrent modules, of each environment, as a component of checkpoints.

    Args:
        policy: its recurrent modules are TorchRL's, or hold one of these, as a `Memory` does.
        num_envs: how many environments.
        device: where the policy acts.
    """

    def __init__(self, policy: nn.Module, num_envs: int, device: torch.device | None) -> None:
        self._blank: Tensors = {
            key: torch.zeros(num_envs, *spec.shape, dtype=spec.dtype, device=device)
            for key, spec in state_specs(policy).items()
        }
        self._now = dict(self._blank)
        self.keys: list[Key] = list(carried_specs(policy))
        """What the policy reads of it: which steps begin an episode, and the states."""
        self.next_keys: list[Key] = list(map(after, self._blank))
        """The states that it writes."""

    def before(self, step_count: Any) -> Tensors:
        """What the policy reads at a step, from how many steps each episode has had `[num_envs]`."""
        if not self._blank:
            return {}
        first = as_column("step_count", torch.as_tensor(step_count)) == 0
        self._now = {
            key: state.masked_fill(first.reshape(-1, *[1] * (state.ndim - 1)).to(state.device), 0.0)
            for key, state in self._now.items()
        }
        return {FIRST: first, **self._now}

    def keep(self, decision: Mapping[Key, Tensor]) -> None:
        """Keep what the policy wrote."""
        self._now = dict(zip(self._now, (decision[key] for key in self.next_keys), strict=True))

    def state_dict(self) -> dict[str, Any]:
        return {name_of(key): state.cpu() for key, state in self._now.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`; one of another policy is a `ValueError`."""
        check_like(self.state_dict(), state, "carried")
        self._now = {key: state[name_of(key)].to(blank.device) for key, blank in self._blank.items()}
