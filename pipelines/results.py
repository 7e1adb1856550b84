"""Results over seeds: reads run folders, groups them by what was run, and summarises each group."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import shlex
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from rlpipe.errors import ConfigError
from rlpipe.pipelines.curve import read_lines
from rlpipe.pipelines.files import read_plain
from rlpipe.pipelines.recipes import RECIPES

_TIME_IN_NAME = re.compile(r"(\d{8}-\d{6})(?:-(\d+))?$")
_DAMAGE = (OSError, ValueError, LookupError, TypeError, ArithmeticError, RecursionError)
_LARGEST_CONFIG = 1_000_000


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


@dataclass(frozen=True)
class Row:
    """The runs that differ in nothing but the seed.

    Args:
        recipe: name of the recipe.
        label: the recipe, and the options that differ from its own.
        env_id: the environment.
        runs: one for each seed, in the order of seeds.
        iqm: interquartile mean of the runs' scores.
        low: lower end of its 95 % interval; `None` for one seed.
        high: upper end.
    """

    recipe: str
    label: str
    env_id: str
    runs: tuple[FinishedRun, ...]
    iqm: float
    low: float | None
    high: float | None


def collect(paths: Sequence[Path]) -> tuple[list[Row], list[str]]:
    """Make a row of each group of runs, in the order of `RECIPES` and then of labels.

    Of several runs of one seed in a group the newest counts.

    Args:
        paths: run folders, or folders that contain run folders at any depth.

    Returns:
        The rows, and notes for people on what was left out.

    Raises:
        ConfigError: a path is no folder, or there is no finished run.
    """
    finished, notes = _read_all(find_runs(paths))
    chosen = [_newest_of_each_seed(group) for group in _grouped(finished)]
    kept = {run.folder for group in chosen for run in group}
    older = [run.folder for run in finished if run.folder not in kept]
    notes += _note("passed over for a newer run of its seed", older)
    if not chosen:
        raise ConfigError(f"no finished run found in {_words(paths)}; {'; '.join(notes)}")
    rows = [_summarise(group) for group in chosen]
    foreign = [run.folder for row in rows for run in row.runs if _options(run) is None]
    notes += _note("shown without options, of a recipe or version that is not this one's", foreign)
    order = list(RECIPES)
    return sorted(rows, key=lambda row: (_position(order, row.recipe), row.recipe, row.label)), notes


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """The run folders among `paths` and below them, each once.

    Raises:
        ConfigError: a path is no folder, or there is no run in any.
    """
    paths, found, seen = list(paths), [], set()
    advice = "name a run folder or one that contains some, or train one: rlpipe train ppo"
    for path in paths:
        if not path.is_dir():
            raise ConfigError(f"no run found in {path}, which is no folder; {advice}")
        for folder, below, files in os.walk(path, followlinks=True):
            # paths may overlap, and links may lead back
            real = os.path.realpath(folder)
            is_run = "config.json" in files and not {"metrics.jsonl", "evaluations.jsonl"}.isdisjoint(files)
            if is_run and real not in seen:
                found.append(Path(folder))
            if is_run or real in seen:
                below.clear()
            below.sort()
            seen.add(real)
    if not found:
        raise ConfigError(f"no run found in {_words(paths)}; {advice}")
    return found


def read_finished(folder: Path) -> FinishedRun | None:
    """Read a run folder; `None` where it has no final evaluation.

    Raises:
        One of `_DAMAGE`: a file in it is missing or damaged.
    """
    described = json.loads(read_plain(folder / "config.json", _LARGEST_CONFIG))
    evaluations = read_lines(folder / "evaluations.jsonl")
    scores = [statistics.fmean(row["returns"]) for row in evaluations if row["final"]]
    if not scores:
        return None
    if not all(map(math.isfinite, scores)):
        raise ValueError(f"a return in {folder} is no finite number")
    metrics = [(row["frames"], float(row["seconds"])) for row in read_lines(folder / "metrics.jsonl")]
    frames, seconds = metrics[-1]
    # where the last evaluation of training and the final one coincide, the final one has more episodes
    returns = {row["frames"]: statistics.fmean(row["returns"]) for row in evaluations}
    evaluated = sorted(returns)
    # a line of metrics may stand for several batches, and an evaluation come between two lines
    seconds_then = np.interp(evaluated, *np.transpose([(0, 0.0), *metrics]))
    config = dict(described["config"])
    return FinishedRun(
        folder=folder,
        recipe=str(described["recipe"]),
        algorithm=str(described["algorithm"]),
        seed=int(config.pop("seed")),
        config=config,
        frames=int(frames),
        seconds=seconds,
        score=scores[-1],
        curve=np.column_stack([evaluated, seconds_then, [returns[at] for at in evaluated]]),
    )


def interquartile_mean(scores: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Interquartile mean, and the ends of its 95 % percentile bootstrap interval; Agarwal et al. 2021.

    They resample seeds within each environment, a stratum; the runs of a row share one environment, so there is one
    stratum. SciPy cuts whole scores off: with fewer than four, none, and the result is the plain mean.

    Args:
        scores: `[seeds]`; one gives no interval.
    """
    if min(scores) == max(scores):
        # a mean of equal numbers may be off in its last digit, and some intervals are undefined
        ends = None if len(scores) == 1 else scores[0]
        return scores[0], ends, ends
    interval = stats.bootstrap(
        (np.asarray(scores),),
        lambda values, axis: stats.trim_mean(values, 0.25, axis=axis),
        confidence_level=0.95,
        method="percentile",
        vectorized=True,
        random_state=np.random.default_rng(0),
    ).confidence_interval
    return float(stats.trim_mean(scores, 0.25)), float(interval.low), float(interval.high)


def over_seeds(runs: Sequence[FinishedRun], column: int) -> tuple[np.ndarray, np.ndarray]:
    """The runs' curves on one axis.

    Between evaluations a curve is a straight line; a run that has stopped keeps its last return.

    Args:
        runs: one for each seed.
        column: 0 for frames, 1 for seconds.

    Returns:
        The positions `[n]`, from where all runs have been evaluated, and the returns there `[runs, n]`.
    """
    positions = np.unique(np.concatenate([run.curve[:, column] for run in runs]))
    positions = positions[positions >= max(run.curve[0, column] for run in runs)]
    return positions, np.array([np.interp(positions, run.curve[:, column], run.curve[:, 2]) for run in runs])


def _read_all(folders: Sequence[Path]) -> tuple[list[FinishedRun], list[str]]:
    finished: list[FinishedRun] = []
    unfinished: list[Path] = []
    damaged: list[Path] = []
    for folder in folders:
        try:
            run = read_finished(folder)
        except _DAMAGE:
            damaged.append(folder)
            continue
        if run is None:
            unfinished.append(folder)
        else:
            finished.append(run)
    return finished, _note("left out, without a final evaluation", unfinished) + _note("left out, damaged", damaged)


def _grouped(runs: Sequence[FinishedRun]) -> list[list[FinishedRun]]:
    """Group by equality, not by hash or text: a config holds lists, and 1 is 1.0."""
    groups: list[tuple[Any, list[FinishedRun]]] = []
    for run in runs:
        what = (run.recipe, run.algorithm, run.config)
        group = next((group for key, group in groups if key == what), None)
        if group is None:
            groups.append((what, [run]))
        else:
            group.append(run)
    return [group for _, group in groups]


def _newest_of_each_seed(runs: Sequence[FinishedRun]) -> list[FinishedRun]:
    newest = {run.seed: run for run in sorted(runs, key=lambda run: _started(run.folder))}
    return [newest[seed] for seed in sorted(newest)]


def _started(folder: Path) -> tuple[float, int]:
    """When a run began: as its name has it, which copies keep, or else the time of its first file."""
    named = _TIME_IN_NAME.search(folder.resolve().name)
    try:
        if named:
            return time.mktime(time.strptime(named[1], "%Y%m%d-%H%M%S")), int(named[2] or 1)
    except (ValueError, OverflowError):
        pass
    return (folder / "config.json").stat().st_mtime, 1


def _summarise(runs: Sequence[FinishedRun]) -> Row:
    first = runs[0]
    label = " ".join([first.recipe, *(_options(first) or [])])
    summary = interquartile_mean([run.score for run in runs])
    return Row(first.recipe, label, str(first.config.get("env_id", "unknown")), tuple(runs), *summary)


def _options(run: FinishedRun) -> list[str] | None:
    """The options that differ from the recipe's own; `None` where this version has no such recipe or fields."""
    recipe = RECIPES.get(run.recipe)
    if recipe is None or recipe.algorithm != run.algorithm:
        return None
    default = json.loads(json.dumps(dataclasses.asdict(recipe.config())))
    if default.keys() - {"seed"} != run.config.keys():
        return None
    return [_option(name, run.config[name]) for name in default if name != "seed" and run.config[name] != default[name]]


def _option(name: str, value: Any) -> str:
    """An option as it is typed."""
    name = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    values = value if isinstance(value, list) else [value]
    words = [str(each).removesuffix(".0") if isinstance(each, float) else str(each) for each in values]
    return shlex.join([f"--{name}", *words])


def _position(order: Sequence[str], recipe: str) -> int:
    return order.index(recipe) if recipe in order else len(order)


def _note(what: str, folders: Sequence[Path]) -> list[str]:
    return [f"{len(folders)} run{'s' * (len(folders) > 1)} {what}: {_words(folders)}"] if folders else []


def _words(paths: Sequence[Path]) -> str:
    return ", ".join(map(str, paths))
