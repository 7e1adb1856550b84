"""Runs with a final evaluation: what was run, how long it took, and what came of it."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rlpipe.pipelines.checkpoints.files import DAMAGE, read_plain
from rlpipe.pipelines.runs import layout
from rlpipe.pipelines.runs.journal import read_lines
from rlpipe.pipelines.runs.origin import Origin, read_origin

_LARGEST_NUMBER = 1e100


@dataclass(frozen=True)
class FinishedRun:
    """What a run folder says of a run that has its final evaluation.

    Args:
        folder: where it is.
        recipe: name of the recipe.
        algorithm: name of the module in `rlpipe.pipelines`.
        config: the JSON form of its Config, without the seed.
        seed: of the run.
        frames: trained for.
        seconds: of training.
        score: mean return of the final evaluation.
        curve: `[evaluations, 3]`: frames, training seconds and mean return of each, in the order of frames.
        origin: what it is beside its config.
        versions: of Python, packages and source that it was made with.
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
    origin: Origin = field(default_factory=Origin)
    versions: Mapping[str, str] = field(default_factory=dict)


def read_finished(folder: Path) -> FinishedRun | None:
    """Read a run folder; `None` where it has no final evaluation.

    Raises:
        One of `DAMAGE`: a file in it is missing or damaged.
    """
    described = json.loads(read_plain(folder / layout.CONFIG, layout.LARGEST_JSON))
    evaluations = read_lines(folder / layout.EVALUATIONS, layout.LARGEST_LINES)
    scores = [statistics.fmean(row["returns"]) for row in evaluations if row["final"]]
    if not scores:
        return None
    lines = read_lines(folder / layout.METRICS, layout.LARGEST_LINES)
    metrics = [(float(row["frames"]), float(row["seconds"])) for row in lines]
    if evaluations[-1]["frames"] == 0:
        # ended by its listener before the first batch
        metrics = [(0.0, 0.0)]
    frames, seconds = metrics[-1]
    # where the last evaluation of training and the final one coincide, the final one has more episodes
    returns = {float(row["frames"]): statistics.fmean(row["returns"]) for row in evaluations}
    evaluated = sorted(returns)
    # a line of metrics may stand for several batches, and an evaluation come between two lines
    seconds_then = np.interp(evaluated, *np.transpose([(0, 0.0), *metrics]))
    curve = np.column_stack([evaluated, seconds_then, [returns[at] for at in evaluated]])
    if not (np.abs([*curve.flat, *scores, seconds]) < _LARGEST_NUMBER).all():
        raise ValueError(f"a return or a time in {folder} is no number, infinite, or too large for means")
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
        origin=read_origin(described, seed),
        versions=_read_versions(folder),
    )


def _read_versions(folder: Path) -> dict[str, str]:
    """Python, packages and commit; nothing if that is damaged, since nothing depends on it."""
    try:
        found = json.loads(read_plain(folder / layout.VERSIONS, layout.LARGEST_JSON))
        named = {"Python": found["python"], **found["packages"], "commit": found["commit"]}
        return {str(name): str(version) for name, version in named.items()}
    except DAMAGE:
        return {}
