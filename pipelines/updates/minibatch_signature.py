"""The signature of a minibatch: what decides, besides the loss, which tensor operations a gradient consists of."""

from __future__ import annotations

from collections.abc import Hashable

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torch.nn.modules import module as modules
from torch.nn.utils import parametrize
from torch.utils import _device
from torchrl.envs.utils import exploration_type

from rlpipe.pipelines.updates.introspection import is_usual

_GLOBAL_HOOKS = [hooks for name, hooks in vars(modules).items() if name.startswith("_global_") and "hooks" in name]


def signature_of(minibatch: TensorDictBase) -> tuple[Hashable | None, list[Tensor]]:
    """The signature of a minibatch, with the process's settings, and its tensors.

    Minibatches of one signature have the same keys, shapes, types and devices, and differ only in the tensors' numbers.
    `None` means that autograd must compute the gradient.
    """
    # the layers of a noisy network depend on the exploration type
    signature: list[Hashable] = [exploration_type(), torch.get_default_dtype(), _device.CURRENT_DEVICE]
    signature.append(torch.are_deterministic_algorithms_enabled())
    entries: list[Tensor] = []
    if _is_watched() or not _describe(minibatch, signature, entries) or not entries:
        return None, entries
    # autocast caches the casts of weights while it is on, and so would use old ones
    if torch.is_autocast_enabled(entries[0].device.type):
        return None, entries
    # which entries are the same tensor
    which = list(map(id, entries))
    signature += [which.index(each) for each in which] if len(set(which)) < len(which) else []
    return tuple(signature), entries


def _is_watched() -> bool:
    """Whether hooks or modes observe or change operations, which a recording would skip."""
    # a default device is a mode, too
    modes = torch._C._len_torch_function_stack() > (_device.CURRENT_DEVICE is not None)
    if torch.is_anomaly_enabled() or not torch.is_grad_enabled() or modes or any(_GLOBAL_HOOKS):
        return True
    return any((torch._C._autograd._top_saved_tensors_default_hooks(True), parametrize._cache_enabled))


def _describe(batch: TensorDictBase, signature: list[Hashable], entries: list[Tensor]) -> bool:
    """Add a batch to `signature`, and its tensors to `entries`; returns whether they can be recorded."""
    if type(batch) is not TensorDict:
        return False
    signature += batch.batch_size, batch.device, batch.is_locked, tuple(batch.names) if batch._has_names() else None
    for key, entry in batch.items():
        signature.append(key)
        if isinstance(entry, Tensor):
            usual = type(entry) is Tensor or is_usual(type(entry))
            if entry.requires_grad or not usual or entry.is_nested or entry.layout is not torch.strided:
                return False
            signature.append((type(entry), entry.shape, entry.stride(), entry.dtype, entry.device))
            entries.append(entry)
        elif not _describe(entry, signature, entries):
            return False
    signature.append(None)
    return True
