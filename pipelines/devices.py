"""Memory of devices and disks, and moving tensors between devices."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from tensordict import TensorDict
from torch import Tensor
from torchrl.data.replay_buffers.storages import Storage

from rlpipe.errors import ConfigError, GPUMemoryError

REPLAY = ("the replay buffer", "--buffer-size")
"""For `gpu_memory_for`: a buffer allocates its memory when it is first written."""


def check_memory(what: str, needed: int, device: torch.device, advice: str = "") -> None:
    """Refuse what needs more bytes than a device has memory, before they are allocated.

    Raises:
        ConfigError: there is less memory, free or not.
    """
    there = _memory(device)
    if needed > there:
        advice = f"; {advice}" if advice else ""
        raise ConfigError(f"{what} {needed / 1e9:,.2f} GB of memory; there are {there / 1e9:,.2f} GB{advice}")


def check_disk(what: str, needed: int, folder: Path, advice: str) -> None:
    """Refuse what needs more bytes than are free on the disk of a folder, which need not exist yet.

    Raises:
        ConfigError: there is less space.
    """
    folder = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ConfigError(f"{what} {needed:,} bytes of disk; {folder} has {free:,} free; {advice}")


def _memory(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    # unknown on Windows
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else math.inf


@contextlib.contextmanager
def gpu_memory_for(what: str, smaller: str) -> Iterator[None]:
    """Turn an out-of-memory error of the GPU into one that says what needed the memory, and which options to lower.

    Raises:
        GPUMemoryError: the GPU ran out of memory.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise GPUMemoryError(f"the GPU ran out of memory for {what}; lower {smaller}") from error


def moved(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """The tensors on `device`, in their order; those on other devices are moved in one copy, and share its memory."""
    # the widest numbers first, so that each tensor begins at a multiple of its width
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
    """The device of a replay buffer's storage; the CPU while it has chosen none."""
    device = getattr(storage, "device", None)
    return device if isinstance(device, torch.device) else torch.device("cpu")


def sent(batch: TensorDict, device: torch.device) -> TensorDict:
    """A batch on `device`; all entries are moved in one copy."""
    keys = list(batch.keys(True, True))
    there = TensorDict(batch_size=batch.batch_size, device=device)
    for key, value in zip(keys, moved([batch.get(key) for key in keys], device), strict=True):
        there.set(key, value)
    return there
