"""Runs without a final evaluation: how far they are, and whether one is being trained at the moment."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlpipe.pipelines.checkpoints.files import read_plain
from rlpipe.pipelines.checkpoints.names import frames_of, newest_checkpoint
from rlpipe.pipelines.runs import layout
from rlpipe.pipelines.runs.lock import is_held


@dataclass(frozen=True)
class UnfinishedRun:
    """What a run folder says of a run that has no final evaluation.

    Args:
        folder: where it is.
        recipe: name of the recipe.
        env_id: the environment.
        seed: of the run.
        frames: trained for so far, as far as was written down.
        total_frames: that it was begun for; `None` where its config does not say.
        state: `running`, or `stopped` and what there is to resume from.
    """

    folder: Path
    recipe: str
    env_id: str
    seed: int
    frames: int
    total_frames: int | None
    state: str


def read_unfinished(folder: Path) -> UnfinishedRun | None:
    """Read the folder of a run that was stopped or goes on; `None` where it has a final evaluation.

    A last line of which only half was written does not count.

    Raises:
        One of `DAMAGE`: a file in it is missing or damaged.
    """
    described = json.loads(read_plain(folder / layout.CONFIG, layout.LARGEST_JSON))
    config = dict(described["config"])
    if any(row["final"] for row in _whole_lines(folder / layout.EVALUATIONS)):
        return None
    metrics = _whole_lines(folder / layout.METRICS)
    total = config.get("total_frames")
    return UnfinishedRun(
        folder=folder,
        recipe=str(described["recipe"]),
        env_id=str(config.get("env_id", "unknown")),
        seed=int(config["seed"]),
        frames=int(metrics[-1]["frames"]) if metrics else 0,
        total_frames=total if type(total) is int else None,
        state=_state(folder),
    )


def _state(folder: Path) -> str:
    if is_held(folder):
        return "running"
    checkpoint = newest_checkpoint(folder)
    return f"stopped; resumes at frame {frames_of(checkpoint):,}" if checkpoint else "stopped before any checkpoint"


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    # what follows the last line's end is the beginning of another
    *lines, _ = read_plain(path, layout.LARGEST_LINES).split("\n")
    return [json.loads(line) for line in lines]
