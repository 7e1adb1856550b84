"""What recurrent policies carry from step to step, without the transforms that TorchRL keeps it in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchrl.data import TensorSpec

from rlpipe.modules.recurrent import FIRST
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
            for key, spec in _state_specs(policy).items()
        }
        self._now = dict(self._blank)
        self.keys, self.next_keys = carried_keys(policy)

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

    def after(self, decision: Mapping[Key, Tensor]) -> None:
        """Keep what the policy wrote."""
        self._now = dict(zip(self._now, (decision[key] for key in self.next_keys), strict=True))

    def state_dict(self) -> dict[str, Any]:
        return {name_of(key): state.cpu() for key, state in self._now.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`; one of another policy is a `ValueError`."""
        check_like(self.state_dict(), state, "carried")
        self._now = {key: state[name_of(key)].to(blank.device) for key, blank in self._blank.items()}


def carried_keys(policy: Any) -> tuple[list[Key], list[Key]]:
    """What a recurrent policy reads beside its observation, and the states that it writes."""
    states = list(_state_specs(policy))
    return [FIRST, *states] if states else [], [
        ("next", *key) if isinstance(key, tuple) else ("next", key) for key in states
    ]


def _state_specs(policy: Any) -> dict[Key, TensorSpec]:
    primers = [module.make_tensordict_primer().primers for module in recurrent_parts(policy)]
    return {key: spec for each in primers for key, spec in each.items(True, True)}


def recurrent_parts(policy: Any) -> list[Any]:
    """TorchRL's recurrent modules in a policy."""
    modules = policy.modules() if isinstance(policy, nn.Module) else ()
    return [module for module in modules if hasattr(module, "make_tensordict_primer")]
