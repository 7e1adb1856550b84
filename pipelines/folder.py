"""Reading a run folder. Imports nothing heavy, so that a mistyped path is refused at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rlpipe.errors import CheckpointError


def read_run(path: Path) -> tuple[dict[str, Any], Path]:
    """Read what a run was, and which of its checkpoints is meant.

    Args:
        path: a run folder, for its newest checkpoint, or a checkpoint in one.

    Returns:
        The content of `config.json`, and the checkpoint's path.

    Raises:
        CheckpointError: the path is neither.
    """
    path = path.resolve()
    folder = path if (path / "config.json").is_file() else path.parent.parent
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{path} is no run: it has no config.json, and is no checkpoint in a run folder")
    try:
        described = json.loads((folder / "config.json").read_text())
        known = isinstance(described["config"], dict) and {"recipe", "algorithm"} <= set(described)
    except (ValueError, TypeError, KeyError):
        known = False
    if not known:
        raise CheckpointError(f"{path} is no run: {folder / 'config.json'} is not one that rlpipe wrote")
    checkpoint = path if path != folder else newest_checkpoint(folder)
    if checkpoint is None:
        raise CheckpointError(f"run {path} has no checkpoint yet")
    return described, checkpoint


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the most frames in a run folder."""
    found = (folder / "checkpoints").glob("frames-*")
    return max((path for path in found if path.is_dir() and path.name[len("frames-") :].isdigit()), default=None)
