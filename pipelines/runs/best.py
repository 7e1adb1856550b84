"""Which checkpoints a run keeps: the newest, and the agent of the best evaluation."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from rlpipe.pipelines.checkpoints.checkpoint import read_metadata, save_checkpoint
from rlpipe.pipelines.checkpoints.names import FOLDER, checkpoints
from rlpipe.pipelines.runs.read import Best, free_name, mark_best, read_best

KEPT = 2
"""The number of newest checkpoints that are kept, besides the agent of the best evaluation."""


def keep_best(folder: Path, frames: int, state: Mapping[str, Any], score: float, run: Mapping[str, Any]) -> None:
    """Write a checkpoint of what acts and mark it, if `score` is better than all before.

    At any moment, a complete one is marked: the last one is removed after the next one is marked. NaN and infinite
    scores are never better.
    """
    before = read_best(folder)
    if not math.isfinite(score) or (before is not None and score <= before.score):
        return
    # what a killed run left without a mark
    _remove_others(folder, before)
    # the marked one may have this name, by another evaluation at this frame
    path = free_name(folder / FOLDER / f"best-{frames:012d}")
    # policy, networks of the loss, observation statistics: no optimiser, replay buffer, environment or counter
    acting = {name: part for name, part in state.items() if name == "policy" or isinstance(part, nn.Module)}
    save_checkpoint(path, acting, {"frames": frames, "score": score, "run": run})
    best = Best(frames, score, path)
    mark_best(folder, best)
    _remove_others(folder, best)


def remove_old(folder: Path) -> None:
    """Remove all checkpoints of a run but the `KEPT` newest."""
    for path in checkpoints(folder)[KEPT:]:
        # older versions kept the best agent in this way, and gave a score to each that might be it
        if read_metadata(path).get("score") is None:
            remove_checkpoint(path)


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint in one step, so that no half of it keeps the name."""
    shutil.rmtree(path.rename(path.with_name(f".{path.name}.removed")), ignore_errors=True)


def _remove_others(folder: Path, best: Best | None) -> None:
    for path in (folder / FOLDER).glob("best-*"):
        if best is None or path != best.path:
            remove_checkpoint(path)
