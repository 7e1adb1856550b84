"""What a run folder says of its run: how it ended, or how far it has come."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rlpipe.pipelines.checkpoints.durable_files import DAMAGE, read_plain
from rlpipe.pipelines.checkpoints.names import frames_of, newest_checkpoint
from rlpipe.pipelines.progress import Evaluation
from rlpipe.pipelines.runs import layout
from rlpipe.pipelines.runs.journal import read_lines
from rlpipe.pipelines.runs.lock import is_held
from rlpipe.pipelines.runs.origin import Origin, read_origin

_LARGEST_NUMBER = 1e100


@dataclass(frozen=True)
class FinishedRun:
    """A run that has its final evaluation, whose mean return is its `score`.

    `success_rate` is that of this evaluation, if the environment reports successes.

    `config` is in JSON, without the seed; `origin` is what distinguishes the run beside it. `curve` `[evaluations, 3]`
    holds frames, training seconds and mean return of each evaluation, in the order of frames. `versions` are those of
    Python, the packages and the source.
    """

    folder: Path
    recipe: str
    algorithm: str
    config: dict[str, Any]
    seed: int
    frames: int
    seconds: float
    score: float
    curve: np.ndarray
    success_rate: float | None = None
    origin: Origin = field(default_factory=Origin)
    versions: Mapping[str, str] = field(default_factory=dict)


def read_finished(folder: Path) -> FinishedRun | None:
    """Read the folder of a finished run; `None` if it has no final evaluation.

    Raises:
        One of `DAMAGE`: a file in it is missing or damaged.
    """
    described = json.loads(read_plain(folder / layout.CONFIG, layout.LARGEST_JSON))
    evaluations = read_lines(folder / layout.EVALUATIONS, layout.LARGEST_LINES)
    finals = [row for row in evaluations if row["final"]]
    scores = [statistics.fmean(row["returns"]) for row in finals]
    if not scores:
        return None
    lines = read_lines(folder / layout.METRICS, layout.LARGEST_LINES)
    metrics = [(float(row["frames"]), float(row["seconds"])) for row in lines]
    if evaluations[-1]["frames"] == 0:
        # a listener stopped it before the first batch
        metrics = [(0.0, 0.0)]
    frames, seconds = metrics[-1]
    # if the last two evaluations are of the same frame, the final one, with more episodes, counts
    returns = {float(row["frames"]): statistics.fmean(row["returns"]) for row in evaluations}
    evaluated = sorted(returns)
    # a line of metrics may stand for several batches, so an evaluation may fall between two lines
    seconds_then = np.interp(evaluated, *np.transpose([(0, 0.0), *metrics]))
    curve = np.column_stack([evaluated, seconds_then, [returns[at] for at in evaluated]])
    if not (np.abs([*curve.flat, *scores, seconds]) < _LARGEST_NUMBER).all():
        raise ValueError(f"a return or a time in {folder} is NaN, infinite, or too large")
    config = dict(described["config"])
    seed = int(config.pop("seed"))
    return FinishedRun(
        folder=folder,
        recipe=str(described["recipe"]),
        algorithm=str(described["algorithm"]),
        seed=seed,
        config=config,
        frames=int(frames),
        seconds=seconds,
        score=scores[-1],
        curve=curve,
        success_rate=Evaluation.from_json({"lengths": (), **finals[-1]}).success_rate,
        origin=read_origin(described, seed),
        versions=_read_versions(folder),
    )


def _read_versions(folder: Path) -> dict[str, str]:
    """Python, packages and commit; empty if the file is damaged, because no result depends on it."""
    try:
        found = json.loads(read_plain(folder / layout.VERSIONS, layout.LARGEST_JSON))
        named = {"Python": found["python"], **found["packages"], "commit": found["commit"]}
        return {str(name): str(version) for name, version in named.items()}
    except DAMAGE:
        return {}


@dataclass(frozen=True)
class UnfinishedRun:
    """A run that has no final evaluation.

    `frames` are those that were written, `total_frames` is `None` if the config does not say it, and `state` is
    `running`, or `stopped` and the frame to resume from.
    """

    folder: Path
    recipe: str
    env_id: str
    seed: int
    frames: int
    total_frames: int | None
    state: str


def read_unfinished(folder: Path) -> UnfinishedRun | None:
    """Read the folder of an unfinished run; `None` if it has a final evaluation.

    An incomplete last line is ignored.

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
    # the text after the last newline is an incomplete line
    *lines, _ = read_plain(path, layout.LARGEST_LINES).split("\n")
    return [json.loads(line) for line in lines]
