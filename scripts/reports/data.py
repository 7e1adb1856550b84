"""The content of the page of `rlpipe report`, as plain numbers and texts.

Texts come from run folders and may be anything, so each is cut to one short line; no number is infinite or NaN.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from rlpipe.pipelines.checkpoints.durable_files import DAMAGE, read_plain
from rlpipe.pipelines.runs import layout
from rlpipe.pipelines.runs.origin import Origin
from rlpipe.scripts.cli.text import printable
from rlpipe.scripts.reports.gifs import Gifs
from rlpipe.scripts.reports.groups import WITHOUT_EFFECT, Row, Survey, grouped, over_seeds
from rlpipe.scripts.reports.run_results import FinishedRun
from rlpipe.scripts.reports.statistics import (
    BAND_RESAMPLES,
    RESAMPLES,
    interquartile_band,
    interquartile_mean,
    probability_of_improvement,
)

_OF_ENVIRONMENT = {"env_id", "eval_env_id"}
_MOST_FIELDS = 300
_MOST_POSITIONS = 200
_LONGEST = 300


def make_data(survey: Survey, gifs: Gifs) -> dict[str, Any]:
    """Everything that the page shows of the runs, with the GIFs that fit, as `page.js` reads it.

    Runs and groups are numbered in order; statistics are over the seeds of a group.
    """
    runs = [run for row in survey.rows for run in row.runs]
    numbers = {run.folder: index for index, run in enumerate(runs)}
    fields = _fields([_describe(run) for run in runs])
    for run in runs:
        gifs.add(run.folder)
    notes = [*survey.notes, *gifs.notes]
    if (cut := len(fields) - _MOST_FIELDS) > 0:
        notes.append(f"{cut:,} settings and versions were left out: the page has the first {_MOST_FIELDS}")
    return {
        "groups": [_group(row, numbers) for row in survey.rows],
        "pairs": list(_pairs(survey.rows)),
        "across": _across_environments(survey.rows),
        "unfinished": [
            {
                "recipe": text(run.recipe),
                "environment": text(run.env_id),
                "seed": text(run.seed),
                "frames": json_number(run.frames),
                "total": json_number(run.total_frames),
                "state": text(run.state),
                "folder": text(run.folder),
            }
            for run in survey.unfinished
        ],
        "fields": fields[:_MOST_FIELDS],
        "gifs": [{"run": numbers[folder], "source": source} for folder, source in gifs.taken.items()],
        "notes": [text(note, 2_000) for note in notes],
        "resamples": {"table": RESAMPLES, "band": BAND_RESAMPLES},
    }


def _group(row: Row, numbers: Mapping[Path, int]) -> dict[str, Any]:
    return {
        "label": text(row.label),
        "environment": text(row.env_id),
        "iqm": json_number(row.iqm),
        "low": json_number(row.low),
        "high": json_number(row.high),
        "runs": [
            {
                "number": numbers[run.folder],
                "seed": text(run.seed),
                "frames": json_number(run.frames),
                "seconds": json_number(run.seconds),
                "score": json_number(run.score),
                "success": json_number(run.success_rate),
                "folder": text(run.folder),
            }
            for run in row.runs
        ],
        "curves": {"frames": _curve(row.runs, 0), "seconds": _curve(row.runs, 1)},
    }


def _curve(runs: Sequence[FinishedRun], column: int) -> dict[str, Any]:
    at, returns = over_seeds(runs, column)
    if len(at) > _MOST_POSITIONS:
        # runs of different speed have different positions, so there may be very many
        even = np.linspace(at[0], at[-1], _MOST_POSITIONS)
        at, returns = even, np.array([np.interp(even, at, each) for each in returns])
    center, low, high = interquartile_band(returns)
    return {
        "at": _numbers(at),
        "seeds": [_numbers(each) for each in returns],
        "iqm": _numbers(center),
        "low": None if low is None else _numbers(low),
        "high": None if high is None else _numbers(high),
    }


def _numbers(values: Iterable[float]) -> list[float | int | None]:
    return [json_number(value) for value in values]


def _pairs(rows: Sequence[Row]) -> Iterable[dict[str, Any]]:
    """The probability that the first group ends above the second, for each pair of groups of one environment."""
    for (first, above), (second, below) in combinations(enumerate(rows), 2):
        if above.env_id == below.env_id:
            scores = [[run.score for run in row.runs] for row in (above, below)]
            p, low, high = map(json_number, probability_of_improvement(*scores))
            yield {"first": first, "second": second, "p": p, "low": low, "high": high}


def _across_environments(rows: Sequence[Row]) -> dict[str, Any] | None:
    """The interquartile mean over environments, for settings that were run on several of them.

    Returns are normalised per environment: 0 is the lowest evaluation return of these runs, 1 the highest. Only
    environments that all these settings share count.

    Returns:
        The environments and a line for each setting; `None` unless two settings share two environments.
    """
    several = []
    for group in grouped(rows, _settings):
        found: dict[str, Row] = {}
        for row in group:
            found.setdefault(row.env_id, row)
        if len(found) > 1:
            several.append(found)
    if len(several) < 2:
        return None
    shared = [env_id for env_id in several[0] if all(env_id in found for found in several)]
    ranges = {}
    for env_id in shared:
        scores = [run.score for found in several for run in found[env_id].runs]
        if min(scores) < max(scores):
            ranges[env_id] = (min(scores), max(scores))
    if len(ranges) < 2:
        return None
    return {"environments": list(map(text, ranges)), "lines": [_line_across(found, ranges) for found in several]}


def _settings(row: Row) -> tuple[Any, Origin]:
    run = row.runs[0]
    config = {key: value for key, value in run.config.items() if key not in _OF_ENVIRONMENT | WITHOUT_EFFECT}
    return (run.recipe, run.algorithm, config), run.origin


def _line_across(found: dict[str, Row], ranges: dict[str, tuple[float, float]]) -> dict[str, Any]:
    strata = [
        [(run.score - lowest) / (highest - lowest) for run in found[env_id].runs]
        for env_id, (lowest, highest) in ranges.items()
    ]
    iqm, low, high = map(json_number, interquartile_mean(*strata))
    # the shortest label does not name the environment
    label = min((row.label for row in found.values()), key=len)
    return {"label": text(label), "runs": sum(map(len, strata)), "iqm": iqm, "low": low, "high": high}


def _describe(run: FinishedRun) -> dict[tuple[str, str], str]:
    """Config and versions of a run; the key is a section and a name."""
    described = {("config", "recipe"): text(run.recipe)}
    described |= {("config", text(key)): _value(value) for key, value in run.config.items()}
    try:
        versions = json.loads(read_plain(run.folder / layout.VERSIONS, layout.LARGEST_JSON))
        described |= {("versions", text(key)): _value(value) for key, value in _flat(versions)}
    except DAMAGE:
        described["versions", layout.VERSIONS] = "missing or damaged"
    return described


def _flat(nested: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    for key, value in nested.items():
        if isinstance(value, dict):
            yield from ((f"{key}: {name}", inner) for name, inner in value.items())
        else:
            yield key, value


def _value(value: Any) -> str:
    return text(value if isinstance(value, str) else json.dumps(value))


def _fields(described: Sequence[Mapping[tuple[str, str], str]]) -> list[dict[str, Any]]:
    """A line for each field of any run, in order of first appearance, with the value of each run."""
    fields = list(dict.fromkeys(field for each in described for field in each))
    # versions first; sorting keeps the order within a section
    fields.sort(key=lambda field: field[0] != "versions")
    return [
        {
            "section": section,
            "name": name,
            "always": section == "versions" and name.startswith(("commit", "machine")),
            "values": [each.get((section, name)) for each in described],
        }
        for section, name in fields
    ]


def text(value: Any, longest: int = _LONGEST) -> str:
    """A value from a run folder as one line of at most `longest` characters."""
    line = printable(str(value))
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def json_number(value: Any) -> float | int | None:
    """A number for JSON and JavaScript, with eight digits; `None` if it is missing, infinite or NaN."""
    if value is None:
        return None
    try:
        close = float(value)
    except OverflowError:
        return None
    if not math.isfinite(close):
        return None
    return int(close) if close.is_integer() and abs(close) < 2**53 else float(f"{close:.8g}")
