"""Tensors from one device to another, all in one copy: each copy is a wait, however little it brings."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import TensorDict
from torch import Tensor
from torchrl.data.replay_buffers.storages import Storage


def moved(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """The tensors on `device`, in their order; those that are elsewhere come in one copy, and share its memory."""
    # the widest first, so that each begins at a multiple of its own width
    away = [index for index, each in enumerate(tensors) if each.device != device]
    away.sort(key=lambda index: tensors[index].element_size(), reverse=True)
    result = list(tensors)
    if not away:
        return result
    flat = [tensors[index].detach().reshape(-1).view(torch.uint8) for index in away]
    pieces = torch.cat(flat).to(device).split([len(each) for each in flat])
    for index, piece in zip(away, pieces, strict=True):
        result[index] = piece.view(tensors[index].dtype).view(tensors[index].shape)
    return result


def device_of(storage: Storage) -> torch.device:
    """Where a replay buffer's storage is; one that has not decided yet is taken to be on the CPU."""
    device = getattr(storage, "device", None)
    return device if isinstance(device, torch.device) else torch.device("cpu")


def sent(batch: TensorDict, device: torch.device) -> TensorDict:
    """A batch on `device`, all of whose entries come in one copy."""
    keys = list(batch.keys(True, True))
    there = TensorDict(batch_size=batch.batch_size, device=device)
    for key, value in zip(keys, moved([batch.get(key) for key in keys], device), strict=True):
        there.set(key, value)
    return there
