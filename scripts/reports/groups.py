"""Results over seeds: reads run folders, groups them by recipe and settings, and summarises each group."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import re
import shlex
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from rlpipe.errors import ConfigError
from rlpipe.pipelines.algorithms.recipes import RECIPES
from rlpipe.pipelines.checkpoints.durable_files import DAMAGE
from rlpipe.pipelines.checkpoints.older import completed
from rlpipe.pipelines.runs import layout
from rlpipe.pipelines.runs.origin import Origin
from rlpipe.scripts.reports.run_results import FinishedRun, UnfinishedRun, read_finished, read_unfinished
from rlpipe.scripts.reports.statistics import interquartile_mean

T = TypeVar("T")
_TIME_IN_NAME = re.compile(r"(\d{8}-\d{6})(?:-(\d+))?$")
_NAMED = 4
"""Folders that a note names."""
WITHOUT_EFFECT = {"seed", "gif", "log_info", "curve_window"}
"""Config fields in which the runs of a group may differ."""


@dataclass(frozen=True)
class Row:
    """Runs that differ only in the seed and in what was recorded and logged, and that have the same origin."""

    recipe: str
    label: str
    """The recipe, the options that differ from its defaults, and what else tells the row from others."""
    env_id: str
    runs: tuple[FinishedRun, ...]
    """One for each seed, in the order of seeds."""
    iqm: float
    """Interquartile mean of the runs' scores; `low` and `high` end its 95 % interval, `None` for a single seed."""
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Survey:
    """All runs below some paths."""

    rows: list[Row]
    """One for each group of finished runs, in the order of `RECIPES` and then of labels."""
    unfinished: list[UnfinishedRun]
    """The other runs that can be read, in the order of their folders."""
    notes: list[str]
    """What was left out, and other remarks for the user."""


def collect(paths: Sequence[Path]) -> tuple[list[Row], list[str]]:
    """The rows of `survey`, and its notes; runs without a final evaluation are in the notes.

    Raises:
        ConfigError: a path is not a folder, or there is no finished run.
    """
    found = survey(paths)
    notes = _note("left out, without a final evaluation", [run.folder for run in found.unfinished]) + found.notes
    if not found.rows:
        raise ConfigError(f"no finished run found in {_listed(paths)}; {'; '.join(notes)}")
    return found.rows, notes


def survey(paths: Sequence[Path]) -> Survey:
    """Read all runs, and make a row for each group of finished ones; of several runs of a seed the newest counts.

    Raises:
        ConfigError: a path is not a folder, or there is no run.
    """
    read = [(folder, _read(folder)) for folder in find_runs(paths)]
    finished = [run for _, run in read if isinstance(run, FinishedRun)]
    unfinished = [run for _, run in read if isinstance(run, UnfinishedRun)]
    notes = _note("left out, damaged", [folder for folder, run in read if run is None])
    chosen = [_newest_of_each_seed(group) for group in grouped(finished, lambda run: (_settings(run), run.origin))]
    kept = {run.folder for group in chosen for run in group}
    older = [run.folder for run in finished if run.folder not in kept]
    notes += _note("left out for a newer run of the same seed", older)
    rows = _with_unique_labels([summarise(group) for group in chosen])
    foreign = [run.folder for row in rows for run in row.runs if _options(run) is None]
    notes += _note("shown without options, because this version does not know the recipe or its settings", foreign)
    notes += [note for row in rows for note in (*_notes_of_versions(row), *_notes_of_arguments(row))]
    ranks = {recipe: rank for rank, recipe in enumerate(RECIPES)}
    rows.sort(key=lambda row: (ranks.get(row.recipe, len(ranks)), row.recipe, row.label))
    return Survey(rows, unfinished, notes)


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """The run folders among `paths` and below them, each once.

    Raises:
        ConfigError: a path is not a folder, or none contains a run.
    """
    paths, found, seen = list(paths), [], set()
    advice = "name a run folder or a folder that contains some, or train one: rlpipe train ppo"
    for path in paths:
        if not path.is_dir():
            raise ConfigError(f"no run found in {path}, which is not a folder; {advice}")
        for folder, below, files in os.walk(path, followlinks=True):
            # paths may overlap, and links may form a circle
            real = os.path.realpath(folder)
            is_run = layout.CONFIG in files and not {layout.METRICS, layout.EVALUATIONS}.isdisjoint(files)
            if is_run and real not in seen:
                found.append(Path(folder))
            if is_run or real in seen:
                below.clear()
            below.sort()
            seen.add(real)
    if not found:
        raise ConfigError(f"no run found in {_listed(paths)}; {advice}")
    return found


def over_seeds(runs: Sequence[FinishedRun], column: int) -> tuple[np.ndarray, np.ndarray]:
    """The curves of the runs at common positions.

    A curve is linear between evaluations; after its last evaluation a run keeps its last return.

    Args:
        runs: one for each seed.
        column: 0 for positions in frames, 1 for seconds.

    Returns:
        The positions `[n]`, from the first one at which all runs were evaluated, and the returns there `[runs, n]`.
    """
    positions = np.unique(np.concatenate([run.curve[:, column] for run in runs]))
    positions = positions[positions >= max(run.curve[0, column] for run in runs)]
    return positions, np.array([np.interp(positions, run.curve[:, column], run.curve[:, 2]) for run in runs])


def _read(folder: Path) -> FinishedRun | UnfinishedRun | None:
    """Read a run; `None` if it is damaged."""
    for read in (read_finished, read_unfinished):
        with contextlib.suppress(*DAMAGE):
            if run := read(folder):
                return run
    return None


def grouped(items: Iterable[T], of: Callable[[T], tuple[Any, Origin]]) -> list[list[T]]:
    """Group by the settings and the origin that `of` returns; settings by equality, because a config holds lists."""
    groups: list[tuple[Any, Origin, list[T]]] = []
    for item in items:
        what, origin = of(item)
        group = next((group for key, other, group in groups if key == what and other.is_like(origin)), None)
        if group is None:
            groups.append((what, origin, [item]))
        else:
            group.append(item)
    return [group for _, _, group in groups]


def _settings(run: FinishedRun) -> Any:
    config = {name: value for name, value in completed(run.config).items() if name not in WITHOUT_EFFECT}
    return run.recipe, run.algorithm, config


def _newest_of_each_seed(runs: Sequence[FinishedRun]) -> list[FinishedRun]:
    newest = {run.seed: run for run in sorted(runs, key=lambda run: _started(run.folder))}
    return [newest[seed] for seed in sorted(newest)]


def _started(folder: Path) -> tuple[float, int]:
    """The start of a run: the time in its name, which copies keep, or else that of its first file."""
    named = _TIME_IN_NAME.search(folder.resolve().name)
    try:
        if named:
            return time.mktime(time.strptime(named[1], "%Y%m%d-%H%M%S")), int(named[2] or 1)
    except (ValueError, OverflowError):
        pass
    return (folder / layout.CONFIG).stat().st_mtime, 1


def summarise(runs: Sequence[FinishedRun]) -> Row:
    """The row of runs, at least one, that differ only in the seed."""
    first = runs[0]
    label = " ".join([first.recipe, *(_options(first) or []), *first.origin.words()])
    summary = interquartile_mean([run.score for run in runs])
    return Row(first.recipe, label, str(first.config.get("env_id", "unknown")), tuple(runs), *summary)


def _with_unique_labels(rows: Sequence[Row]) -> list[Row]:
    """Make the labels unique within each environment."""
    labelled = []
    for row in rows:
        alike = [each.runs[0].origin for each in rows if (each.label, each.env_id) == (row.label, row.env_id)]
        extra = f" ({row.runs[0].origin.differences(alike)})" if len(alike) > 1 else ""
        labelled.append(dataclasses.replace(row, label=f"{row.label}{extra}"))
    return labelled


def _notes_of_versions(row: Row) -> list[str]:
    known = [run.versions for run in row.runs if run.versions]
    names = dict.fromkeys(name for versions in known for name in versions)
    differing = [name for name in names if len({versions.get(name) for versions in known}) > 1]
    return [f"the runs of {row.label} on {row.env_id} differ in their {', '.join(differing)}"] if differing else []


def _notes_of_arguments(row: Row) -> list[str]:
    """Notes on runs of the same settings whose programs were started with different arguments."""
    origins = [run.origin for run in row.runs]
    others = [each for each in origins if not each.has_arguments_of(origins[0])]
    if not others:
        return []
    shown = " and ".join(shlex.join(each.arguments) for each in (origins[0], others[0]))
    return [f"the runs of {row.label} on {row.env_id} were started with different arguments, such as {shown}"]


def _options(run: FinishedRun) -> list[str] | None:
    """The options that differ from the recipe's defaults; `None` if this version has no such recipe or fields.

    A custom run has no defaults, so all its settings are shown.
    """
    if run.origin.defaults is not None:
        return [
            _option(name, run.config[name]) for name in run.config if _differs(name, run.config, run.origin.defaults)
        ]
    if run.recipe not in RECIPES and run.algorithm not in {each.algorithm for each in RECIPES.values()}:
        return [_option(name, value) for name, value in run.config.items() if name != "env_id"]
    recipe = RECIPES.get(run.recipe)
    if recipe is None or recipe.algorithm != run.algorithm:
        return None
    default = _defaults(recipe.name)
    config = completed(run.config)
    if default.keys() - {"seed"} != config.keys():
        return None
    return [_option(name, config[name]) for name in default if _differs(name, config, default)]


@functools.cache
def _defaults(recipe: str) -> dict[str, Any]:
    """The Config of a recipe, as `config.json` has it."""
    defaults: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(RECIPES[recipe].config())))
    return defaults


def _differs(name: str, config: Mapping[str, Any], default: Mapping[str, Any]) -> bool:
    return name not in WITHOUT_EFFECT and (name not in default or config[name] != default[name])


def _option(name: str, value: Any) -> str:
    """An option as it is typed on the command line."""
    name = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    if isinstance(value, dict):
        value = json.dumps(value)
    values = value if isinstance(value, list) else [value]
    words = [str(each).removesuffix(".0") if isinstance(each, float) else str(each) for each in values]
    return shlex.join([f"--{name}", *words])


def _note(what: str, folders: Sequence[Path]) -> list[str]:
    if not folders:
        return []
    more = f" and {len(folders) - _NAMED} more" if len(folders) > _NAMED else ""
    return [f"{len(folders)} run{'s' * (len(folders) > 1)} {what}: {_listed(folders[:_NAMED])}{more}"]


def _listed(paths: Sequence[Path]) -> str:
    return ", ".join(map(str, paths))
