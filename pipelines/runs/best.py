"""What a run keeps of its best evaluation: an agent to load, and nothing that only `resume` needs."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from rlpipe.pipelines.checkpoints.checkpoint import save_checkpoint
from rlpipe.pipelines.checkpoints.names import best_checkpoints, best_path
from rlpipe.pipelines.runs.read import Best, free_name, mark_best, read_best


def keep_best(folder: Path, frames: int, state: Mapping[str, Any], score: float, run: Mapping[str, Any]) -> None:
    """Write a checkpoint of what acts and mark it, if `score` is better than every one before.

    At any moment there is one that is marked and whole: the last one goes after the next one is marked.

    Args:
        folder: of the run.
        frames: trained so far.
        state: objects by name; of them, the modules are kept.
        score: to compare by; one that is no finite number is never better.
        run: identity of the run.
    """
    before = read_best(folder)
    if not math.isfinite(score) or (before is not None and score <= before.score):
        return
    # what a killed run has left without a mark
    _remove_others(folder, before)
    # the marked one may have this name, by another evaluation at this frame
    path = free_name(best_path(folder, frames))
    save_checkpoint(path, _what_acts(state), {"frames": frames, "score": score, "run": run})
    best = Best(frames, score, path)
    mark_best(folder, best)
    _remove_others(folder, best)


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint in one step, so that no half of it keeps the name."""
    shutil.rmtree(path.rename(path.with_name(f".{path.name}.removed")), ignore_errors=True)


def _remove_others(folder: Path, best: Best | None) -> None:
    for path in best_checkpoints(folder):
        if best is None or path != best.path:
            remove_checkpoint(path)


def _what_acts(state: Mapping[str, Any]) -> dict[str, Any]:
    """Policy, networks of the loss, observation statistics: no optimiser, replay buffer, environment or counter."""
    return {name: part for name, part in state.items() if name == "policy" or isinstance(part, nn.Module)}
