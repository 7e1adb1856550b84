"""The names of checkpoints, by which the newest is found. Imports nothing heavy."""

from __future__ import annotations

import re
from pathlib import Path

from rlpipe.errors import CheckpointError

FOLDER, MANIFEST = "checkpoints", "checkpoint.json"
"""The folder of a run's checkpoints, and the file in each that describes it."""
_CHECKPOINT = re.compile(r"frames-(\d+)")
BEST_CHECKPOINT = re.compile(r"best-(\d+)(?:-\d+)?")
"""Matches the name of the checkpoint of a run's best evaluation."""


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a run folder, the newest first."""
    found = [path for path in (folder / FOLDER).glob("frames-*") if _CHECKPOINT.fullmatch(path.name)]
    return sorted((path for path in found if path.is_dir()), key=frames_of, reverse=True)


def checkpoint_path(folder: Path, frames: int) -> Path:
    """The path of a run's checkpoint after `frames` frames."""
    return folder / FOLDER / f"frames-{frames:012d}"


def check_name(checkpoint: Path, frames: object) -> None:
    """Refuse a checkpoint that is not named after its frames, because the newest is found by its name.

    Raises:
        CheckpointError: it has another name.
    """
    named = _CHECKPOINT.fullmatch(checkpoint.name) or BEST_CHECKPOINT.fullmatch(checkpoint.name)
    if named is None or type(frames) is not int or int(named[1]) != frames:
        raise CheckpointError(f"checkpoint {checkpoint} was renamed: it is one of frame {frames!r}")


def frames_of(checkpoint: Path) -> int:
    """The frames in a checkpoint's name."""
    return int(checkpoint.name.split("-")[1])


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the most frames in a run folder."""
    return next(iter(checkpoints(folder)), None)
