"""What a transition consists of, and whether there is memory, or disk, for as many as a Config asks for."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from tensordict.utils import NestedKey
from torchrl.data import Categorical
from torchrl.envs import EnvBase

from rlpipe.errors import ConfigError, GPUMemoryError
from rlpipe.pipelines.fitting import Kind

REPLAY = ("the replay buffer", "--buffer-size")
"""What to tell, where a buffer's memory is taken when it is first written."""


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


def transition_kinds(env: EnvBase, keys: Iterable[NestedKey]) -> dict[NestedKey, Kind]:
    """What one transition of one environment consists of, of which `keys` are kept; `next` has the same names."""
    ends = dict(env.done_spec.items(True, True))
    specs = {**dict(env.observation_spec.items(True, True)), **ends, "action": env.action_spec}
    specs |= {"reward": env.reward_spec, "discount": env.reward_spec}
    kept = {key: specs[key if isinstance(key, str) else key[-1]] for key in keys}
    return {
        key: Kind(
            spec.shape[len(env.batch_size) :], spec.dtype, int(spec.space.n) if type(spec) is Categorical else None
        )
        for key, spec in kept.items()
    }


def transition_bytes(env: EnvBase, keys: Iterable[NestedKey]) -> int:
    """Bytes of one such transition."""
    kinds = transition_kinds(env, keys)
    return sum(kind.shape.numel() * kind.dtype.itemsize for kind in kinds.values())
