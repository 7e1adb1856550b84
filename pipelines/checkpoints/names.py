"""The names of checkpoints, which say what is newest. Imports nothing heavy."""

from __future__ import annotations

import re
from pathlib import Path

from rlpipe.errors import CheckpointError

FOLDER, MANIFEST = "checkpoints", "checkpoint.json"
"""The folder of a run's checkpoints, and the file in each that describes it."""
_CHECKPOINT = re.compile(r"frames-(\d+)")
_BEST = re.compile(r"best-(\d+)(?:-\d+)?")


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a run folder, the newest first."""
    found = [path for path in (folder / FOLDER).glob("frames-*") if _CHECKPOINT.fullmatch(path.name)]
    return sorted((path for path in found if path.is_dir()), key=frames_of, reverse=True)


def checkpoint_path(folder: Path, frames: int) -> Path:
    """Where a run keeps its checkpoint of so many frames."""
    return folder / FOLDER / f"frames-{frames:012d}"


def best_path(folder: Path, frames: int) -> Path:
    """Where a run keeps the agent of its best evaluation, if nothing else has this name."""
    return folder / FOLDER / f"best-{frames:012d}"


def best_checkpoints(folder: Path) -> list[Path]:
    """The agents of best evaluations in a run folder: one, and more after a crash."""
    return list((folder / FOLDER).glob("best-*"))


def is_best_name(name: str) -> bool:
    """Whether this is the name of a best evaluation's agent."""
    return _BEST.fullmatch(name) is not None


def check_name(checkpoint: Path, frames: object) -> None:
    """Refuse a checkpoint that is not named after its frames: what is newest goes by names.

    Raises:
        CheckpointError: it has another name.
    """
    named = _CHECKPOINT.fullmatch(checkpoint.name) or _BEST.fullmatch(checkpoint.name)
    if named is None or type(frames) is not int or int(named[1]) != frames:
        raise CheckpointError(f"checkpoint {checkpoint} was renamed: it is one of frame {frames!r}")


def frames_of(checkpoint: Path) -> int:
    """The frames in a checkpoint's name."""
    return int(checkpoint.name.split("-")[1])


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the most frames in a run folder."""
    return next(iter(checkpoints(folder)), None)
