"""The output of a benchmark: a table, JSON with every sample, and a plot."""

from __future__ import annotations

import dataclasses
import datetime
import io
import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlpipe.errors import ConfigError, exists_already
from rlpipe.pipelines.runs.versions import version_of
from rlpipe.scripts.benchmarks.measure import REFERENCE, Row, spread

_PACKAGES = ("rlpipe", "torch", "torchrl", "tensordict", "gymnasium", "numpy", "mujoco", "stable-baselines3")
_MARKERS = "osD^vPX*"


def default_path(benchmark: str) -> Path:
    """`runs/benchmark/<benchmark>-<time>.json`, with a number after the time if that exists."""
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    path, number = Path("runs", "benchmark", f"{benchmark}-{now}.json"), 1
    while path.exists() or path.with_suffix(".png").exists():
        number += 1
        path = path.with_name(f"{benchmark}-{now}-{number}.json")
    return path


def prepare(path: Path) -> None:
    """Make the folder of `path`, and check before any measurement that the files can be written.

    Raises:
        ConfigError: `path` does not end in .json, it or its plot exists, or it cannot be written.
    """
    if path.suffix != ".json":
        raise ConfigError(f"out is {path}; expected a name that ends in .json")
    for each in (path, path.with_suffix(".png")):
        if os.path.lexists(each):
            raise exists_already("out", each)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for each in (path, path.with_suffix(".png")):
            each.open("x").close()
            each.unlink()
    except FileExistsError as error:
        raise ConfigError(f"out {path} cannot be written: {error.filename} is not a folder") from error
    except OSError as error:
        raise ConfigError(f"out {path} cannot be written: {error.strerror}") from error


def write(path: Path, rows: Sequence[Row], described: Mapping[str, Any]) -> None:
    """Write the JSON, which begins with what `described` holds, to `path`, and the plot of at least one row beside it.

    Raises:
        ConfigError: a file of that name exists by now, or cannot be written.
    """
    content = {**described, **machine(), "rows": [as_json(row) for row in rows]}
    try:
        with path.open("x") as stream:
            json.dump(content, stream, indent=1)
        with path.with_suffix(".png").open("xb") as image:
            image.write(draw(rows, str(described.get("benchmark", ""))))
    except FileExistsError as error:
        raise exists_already("out", error.filename) from None
    except OSError as error:
        raise ConfigError(f"out {path} cannot be written: {error.strerror}") from error


def machine() -> dict[str, Any]:
    """The machine and the versions that were measured."""
    return {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "packages": {name: version_of(name) for name in _PACKAGES},
        "system": platform.platform(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "torch_threads": 1,
    }


def as_json(row: Row) -> dict[str, Any]:
    """A row as in the JSON file: every sample, in the order of repetitions, medians and ratios."""
    return {
        "case": row.case,
        "unit": row.unit,
        "samples": row.samples,
        "medians": row.medians,
        "ratios": {arm: dataclasses.asdict(ratio) for arm in row.samples if (ratio := row.ratio(arm)) is not None},
        "extra": row.extra,
    }


def describe(rows: Sequence[Row]) -> str:
    """Format the rows as Markdown tables: samples, frames per second and summaries if rows have them, and notes."""
    arms = list(dict.fromkeys(arm for row in rows for arm in row.samples))
    parts = [
        _table(("case", "unit", *arms), [(row.case, row.unit, *(_cell(row, arm) for arm in arms)) for row in rows])
    ]
    speeds = {row.case: row.extra["frames_per_second"] for row in rows if "frames_per_second" in row.extra}
    if speeds:
        body = [
            (case, *(_two_digits(speed[arm]) if arm in speed else "" for arm in arms)) for case, speed in speeds.items()
        ]
        parts.append(_table(("frames a second", *arms), body))
    summaries = [
        (row.case.partition(",")[0], arm, *columns.values())
        for row in rows
        for arm, columns in row.extra.get("summary", {}).items()
    ]
    if summaries:
        header = next(columns for row in rows for columns in row.extra.get("summary", {}).values())
        parts.append(_table(("case", "arm", *header), summaries))
    notes = [f"- {row.extra['note']}" for row in rows if "note" in row.extra]
    if any(row.ratio(arm) for row in rows for arm in row.samples):
        notes.insert(0, f"- medians; in brackets times {REFERENCE}'s, paired by repetition: median and quartiles")
    return "\n\n".join([*parts, *(["\n".join(notes)] if notes else [])])


def draw(rows: Sequence[Row], title: str) -> bytes:
    """Draw medians and quartiles on logarithmic axes, one line of dots per case and one plot per unit.

    Returns:
        A PNG.
    """
    from matplotlib.figure import Figure

    arms = list(dict.fromkeys(arm for row in rows for arm in row.samples))
    units = {unit: [row for row in rows if row.unit == unit] for unit in dict.fromkeys(row.unit for row in rows)}
    heights = [len(group) + 1.5 for group in units.values()]
    figure = Figure(figsize=(10, 0.36 * sum(heights) + 1), layout="constrained")
    grid = figure.subplots(len(units), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (unit, group) in zip(grid, units.items(), strict=True):
        _draw_dots(axes, group, arms)
        axes.set(xlabel=f"{unit}, median and quartiles; lower is better")
    figure.suptitle(f"rlpipe benchmark {title}")
    labels = {label: dots for axes in grid for dots, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(labels.values(), labels.keys(), loc="outside lower center", ncols=min(len(labels), 6))
    written = io.BytesIO()
    figure.savefig(written, dpi=120, format="png")
    return written.getvalue()


def _draw_dots(axes: Any, rows: Sequence[Row], arms: Sequence[str]) -> None:
    for index, arm in enumerate(arms):
        found = [(at, spread(row.samples[arm])) for at, row in enumerate(rows) if row.samples.get(arm)]
        if not found:
            continue
        medians = [each.median for _, each in found]
        errors = [[each.median - each.low for _, each in found], [each.high - each.median for _, each in found]]
        marker, color = _MARKERS[index % len(_MARKERS)], f"C{index % 10}"
        at = [at for at, _ in found]
        axes.errorbar(medians, at, xerr=errors, fmt=marker, color=color, label=arm, markersize=7, alpha=0.85)
    axes.set_yticks(range(len(rows)), [row.case for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    values = [value for row in rows for samples in row.samples.values() for value in samples]
    if min(values, default=0) > 0:
        # axes of less than a decade would exaggerate small differences
        middle, reach = math.sqrt(min(values) * max(values)), max(math.sqrt(max(values) / min(values)), math.sqrt(10))
        axes.set(xscale="log", xlim=(middle / reach / 1.3, middle * reach * 1.3))
    axes.grid(alpha=0.3)
    axes.grid(which="minor", axis="x", alpha=0.12)


def _cell(row: Row, arm: str) -> str:
    if arm not in row.medians:
        return ""
    ratio, median = row.ratio(arm), _two_digits(row.medians[arm])
    if ratio is None:
        return median
    return f"{median} ({_two_digits(ratio.median)}x, {_two_digits(ratio.low)} to {_two_digits(ratio.high)})"


def _table(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (header, *body)]
    return "\n".join([lines[0], f"|{'---|' * len(header)}", *lines[1:]])


def _two_digits(value: float) -> str:
    """Format a number with two digits or more: 0.0012, 1.23, 12.3, 123, 12 345."""
    if abs(value) < 1:
        return f"{value:#.2g}"
    return f"{value:,.{2 if abs(value) < 10 else 1 if abs(value) < 100 else 0}f}".replace(",", " ")


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
