"""What a transition consists of, and whether there is memory, or disk, for as many as a Config asks for."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import torch
from tensordict import TensorDict
from torch import Tensor
from torchrl.data.replay_buffers.storages import Storage

from rlpipe.errors import ConfigError, GPUMemoryError

REPLAY = ("the replay buffer", "--buffer-size")
"""What to tell, where a buffer's memory is taken when it is first written."""


Execution = Literal["eager", "recorded", "compiled", "graphed"]
"""How a gradient is computed, see `make_gradient`."""


def check_memory(what: str, needed: int, device: torch.device, way_out: str = "") -> None:
    """Refuse what no device of this size holds, before it is allocated.

    Args:
        what: field and value, and what it is that takes the memory.
        needed: bytes.
        device: where.
        way_out: what to do, where the field does not say it.

    Raises:
        ConfigError: there is less memory, free or not.
    """
    there = _memory(device)
    if needed > there:
        advice = f"; {way_out}" if way_out else ""
        raise ConfigError(f"{what} {needed / 1e9:,.2f} GB of memory; there are {there / 1e9:,.2f} GB{advice}")


def check_disk(what: str, needed: int, folder: Path, way_out: str) -> None:
    """Refuse what the disk has no room for.

    Args:
        what: it is that takes the room.
        needed: bytes.
        folder: on the disk; it need not be there yet.
        way_out: what to do.

    Raises:
        ConfigError: there is less room.
    """
    folder = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ConfigError(f"{what} {needed:,} bytes of disk; {folder} has {free:,} free; {way_out}")


def _memory(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    # not known on Windows
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else math.inf


@contextlib.contextmanager
def gpu_memory_for(what: str, smaller: str) -> Iterator[None]:
    """Turn the GPU's running out of memory, within, into an error that says what to make smaller.

    Args:
        what: is done here.
        smaller: the options to lower.

    Raises:
        GPUMemoryError: it ran out of memory.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise GPUMemoryError(f"the GPU ran out of memory for {what}; lower {smaller}") from error


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
