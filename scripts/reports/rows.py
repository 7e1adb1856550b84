"""Rows of a table of results: as Markdown, as JSON and as a plot."""

from __future__ import annotations

import io
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rlpipe.formatting import column, decimals_of_seconds
from rlpipe.scripts.cli.text import printable

if TYPE_CHECKING:
    from rlpipe.scripts.reports.groups import Row

HEADER = (
    "recipe",
    "environment",
    "seeds",
    "frames",
    "training seconds",
    "evaluation return (IQM, 95 % interval)",
    "of each seed",
)
SUCCESS = "success"
"""Header of a last column, if a run's environment reports successes."""


def as_json(row: Row) -> dict[str, Any]:
    """A row as `--json` prints it; lists are in the order of seeds, and a single seed has no interval."""
    rates = [each.success_rate for each in row.runs]
    known = {} if rates == [None] * len(rates) else {"success_rates": rates}
    return {
        "recipe": row.recipe,
        "label": row.label,
        "env_id": row.env_id,
        "seeds": [each.seed for each in row.runs],
        "frames": [each.frames for each in row.runs],
        "seconds": [each.seconds for each in row.runs],
        "returns": [each.score for each in row.runs],
        "iqm": row.iqm,
        "low": row.low,
        "high": row.high,
        **known,
    }


def describe(rows: Sequence[Row]) -> str:
    """Format the rows as a Markdown table."""
    rates = [_success(row) for row in rows]
    lines = [HEADER, ("---",) * len(HEADER), *map(_cells, rows)]
    if any(rates):
        lines = [(*cells, last) for cells, last in zip(lines, (SUCCESS, "---", *rates), strict=True)]
    # the names come from files and may hold control characters
    text = [printable(f"| {' | '.join(cells)} |") for cells in lines]
    text[1] = text[1].replace(" ", "")
    return "\n".join(text)


def draw_results(rows: Sequence[Row]) -> bytes:
    """Plot evaluation returns against frames and against training seconds, one line of plots per environment.

    Returns:
        A PNG.
    """
    from matplotlib.figure import Figure

    from rlpipe.pipelines.runs.curve import literal
    from rlpipe.scripts.reports.groups import over_seeds

    environments = list(dict.fromkeys(row.env_id for row in rows))
    figure = Figure(figsize=(11, 3.6 * len(environments) + 0.25 * len(rows)), layout="constrained")
    grid = figure.subplots(len(environments), 2, squeeze=False, sharey="row")
    lines = []
    for index, row in enumerate(rows):
        color, style = f"C{index % 10}", ("-", "--", ":", "-.")[index // 10 % 4]
        for axis, axes in enumerate(grid[environments.index(row.env_id)]):
            at, returns = over_seeds(row.runs, axis)
            marker = "o" if len(at) == 1 else ""
            (line,) = axes.plot(at, returns.mean(0), style, color=color, marker=marker, label=literal(row.label))
            axes.fill_between(at, returns.min(0), returns.max(0), color=color, alpha=0.2, linewidth=0)
        lines.append(line)
    for env_id, (left, right) in zip(environments, grid, strict=True):
        left.set(title=literal(env_id), xlabel="frames", ylabel="evaluation return: mean and range of seeds")
        right.set(title=literal(env_id), xlabel="training seconds")
        left.xaxis.set_major_formatter("{x:,.0f}")
        for axes in (left, right):
            axes.set_xlim(left=0)
            axes.grid(alpha=0.3)
    figure.legend(handles=lines, loc="outside lower center", frameon=False)
    written = io.BytesIO()
    figure.savefig(written, dpi=120, format="png")
    return written.getvalue()


def _cells(row: Row) -> tuple[str, ...]:
    seconds, scores = [each.seconds for each in row.runs], [each.score for each in row.runs]
    ends = [each for each in (row.low, row.high) if each is not None]
    iqm, *texts = column([row.iqm, *ends, *scores], " ")
    interval = f"{texts[0]} to {texts[1]}" if ends else "one seed"
    return (
        f"`{row.label}`",
        row.env_id,
        ", ".join(str(each.seed) for each in row.runs),
        _median_and_range([each.frames for each in row.runs], 0),
        _median_and_range(seconds, decimals_of_seconds(max(seconds)) if max(seconds) < 100 else 0),
        f"{iqm} ({interval})",
        ", ".join(texts[len(ends) :]),
    )


def _success(row: Row) -> str:
    """Median and range of the seeds' success rates; empty if there are none."""
    rates = [100 * each.success_rate for each in row.runs if each.success_rate is not None]
    return f"{_median_and_range(rates, 1)} %" if rates else ""


def _median_and_range(values: Sequence[float], digits: int) -> str:
    median, low, high = (_fixed(each, digits) for each in (statistics.median(values), min(values), max(values)))
    return median if low == high else f"{median} ({low} to {high})"


def _fixed(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}".replace(",", " ")
