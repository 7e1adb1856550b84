"""Kinds of minibatches: all beside a loss itself that decides which tensor operations its gradient is made of."""

from __future__ import annotations

from collections.abc import Hashable

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torch.nn.modules import module as modules
from torch.nn.utils import parametrize
from torch.utils import _device
from torchrl.envs.utils import exploration_type

from rlpipe.pipelines.updates.watched_values import is_usual

_GLOBAL_HOOKS = [hooks for name, hooks in vars(modules).items() if name.startswith("_global_") and "hooks" in name]


def kind_of(minibatch: TensorDictBase) -> tuple[Hashable | None, list[Tensor]]:
    """The kind of a minibatch, under the process's present settings, and its tensors.

    Two of one kind have the same keys, shapes, types and places, and differ in the tensors' numbers alone. `None` is
    for a minibatch whose gradient is left to autograd.
    """
    # exploration is what the layers of a noisy network take note of
    kind: list[Hashable] = [exploration_type(), torch.get_default_dtype(), _device.CURRENT_DEVICE]
    kind.append(torch.are_deterministic_algorithms_enabled())
    entries: list[Tensor] = []
    if _is_watched() or not _describe(minibatch, kind, entries) or not entries:
        return None, entries
    # autocast remembers the casts of weights for as long as it lasts, and so goes on with older ones
    if torch.is_autocast_enabled(entries[0].device.type):
        return None, entries
    # which of them are one tensor
    which = list(map(id, entries))
    kind += [which.index(each) for each in which] if len(set(which)) < len(which) else []
    return tuple(kind), entries


def _is_watched() -> bool:
    """Whether something looks on, or takes part, that a recording would pass by."""
    # a default device is a mode as well
    modes = torch._C._len_torch_function_stack() > (_device.CURRENT_DEVICE is not None)
    if torch.is_anomaly_enabled() or not torch.is_grad_enabled() or modes or any(_GLOBAL_HOOKS):
        return True
    return any((torch._C._autograd._top_saved_tensors_default_hooks(True), parametrize._cache_enabled))


def _describe(batch: TensorDictBase, kind: list[Hashable], entries: list[Tensor]) -> bool:
    """Add what decides about operations to `kind`, and the tensors to `entries`; whether they can be recorded."""
    if type(batch) is not TensorDict:
        return False
    kind += batch.batch_size, batch.device, batch.is_locked, tuple(batch.names) if batch._has_names() else None
    for key, entry in batch.items():
        kind.append(key)
        if isinstance(entry, Tensor):
            usual = type(entry) is Tensor or is_usual(type(entry))
            if entry.requires_grad or not usual or entry.is_nested or entry.layout is not torch.strided:
                return False
            kind.append((type(entry), entry.shape, entry.stride(), entry.dtype, entry.device))
            entries.append(entry)
        elif not _describe(entry, kind, entries):
            return False
    kind.append(None)
    return True
