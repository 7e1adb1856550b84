"""What recurrent policies carry from step to step, of whatever make."""

from __future__ import annotations

from typing import Any

from tensordict.utils import NestedKey
from torch import nn
from torchrl.data import Binary, TensorSpec

FIRST = "is_init"
"""The entry, bool `[*B, 1]`, that says which steps begin an episode; the name is that of TorchRL's `InitTracker`."""


def recurrent_parts(policy: Any) -> list[Any]:
    """TorchRL's recurrent modules in a policy, those within a `Memory` too."""
    modules = policy.modules() if isinstance(policy, nn.Module) else ()
    return [module for module in modules if hasattr(module, "make_tensordict_primer")]


def state_specs(policy: Any) -> dict[NestedKey, TensorSpec]:
    """The states that a policy carries, of one environment, by key."""
    primers = [module.make_tensordict_primer().primers for module in recurrent_parts(policy)]
    return {key: spec for each in primers for key, spec in each.items(True, True)}


def carried_specs(policy: Any) -> dict[NestedKey, TensorSpec]:
    """All that a recurrent policy reads beside its observation: `is_init`, and its states."""
    states = state_specs(policy)
    return {FIRST: Binary(1), **states} if states else {}


def after(key: Any) -> Any:
    """The entry of a state after the step."""
    return ("next", *key) if isinstance(key, tuple) else ("next", key)
