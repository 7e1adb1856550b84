"""`rlpipe table`: a table of results over seeds, from run folders."""

from __future__ import annotations

import io
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from rlpipe.errors import ConfigError
from rlpipe.pipelines.numbers import column, decimals_of_seconds
from rlpipe.scripts.main import printable, run
from rlpipe.scripts.options import parse

if TYPE_CHECKING:
    from rlpipe.pipelines.results import Row

HEADER = (
    "recipe",
    "environment",
    "seeds",
    "frames",
    "training seconds",
    "return (IQM, 95 % interval)",
    "per-seed returns",
)
DESCRIPTION = """A Markdown table of finished runs, a row for all that differ in nothing but the seed: median (min to
max) of frames and seconds, and the interquartile mean of the seeds' final returns with its bootstrap interval."""


@dataclass(frozen=True)
class Options:
    """What `rlpipe table` takes."""

    paths: Positional[tuple[Path, ...]] = (Path("runs"),)
    """Run folders, or folders that contain run folders at any depth."""
    json: bool = False
    """Print one JSON object."""
    plot: Path | None = None
    """Draw evaluation returns against frames and training seconds into this new PNG file."""


def main(arguments: Sequence[str]) -> int:
    """Read the runs, and print the table."""
    options = parse(Options, arguments, prog="rlpipe table", description=DESCRIPTION)
    if options.plot is not None and options.plot.suffix.lower() != ".png":
        raise ConfigError(f"plot is {options.plot}; expected a name that ends in .png")

    from rlpipe.pipelines.results import collect

    rows, notes = collect(options.paths)
    if options.plot is not None:
        _write_new(options.plot, draw_results(rows))
    for note in notes:
        print(f"rlpipe: note: {printable(note)}", file=sys.stderr)
    print(json.dumps({"rows": [as_json(row) for row in rows]}) if options.json else describe(rows))
    return 0


def as_json(row: Row) -> dict[str, Any]:
    """A row as `--json` prints it; lists are in the order of seeds, and one seed has no interval."""
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
    }


def describe(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [HEADER, ("---",) * len(HEADER), *map(_cells, rows)]
    # whoever wrote the files has chosen the names in them
    text = [printable(f"| {' | '.join(cells)} |") for cells in lines]
    text[1] = text[1].replace(" ", "")
    return "\n".join(text)


def draw_results(rows: Sequence[Row]) -> bytes:
    """Draw evaluation returns against frames and against training seconds, a line of axes for each environment.

    Returns:
        A PNG.
    """
    from matplotlib.figure import Figure

    from rlpipe.pipelines.curve import literal
    from rlpipe.pipelines.results import over_seeds

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
        left.set(title=literal(env_id), xlabel="frames", ylabel="return: mean and range of seeds")
        right.set(title=literal(env_id), xlabel="training seconds")
        left.grid(alpha=0.3)
        right.grid(alpha=0.3)
    figure.legend(handles=lines, loc="outside lower center")
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


def _median_and_range(values: Sequence[float], digits: int) -> str:
    median, low, high = (_number(each, digits) for each in (statistics.median(values), min(values), max(values)))
    return median if low == high else f"{median} ({low} to {high})"


def _number(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}".replace(",", " ")


def _write_new(path: Path, content: bytes) -> None:
    try:
        with path.open("xb") as stream:
            stream.write(content)
    except FileExistsError:
        raise ConfigError(f"plot {path} exists already; nothing was overwritten, name a new one") from None
    except OSError as error:
        raise ConfigError(f"plot {path} cannot be written: {error.strerror}") from error


if __name__ == "__main__":
    sys.exit(run(["table", *sys.argv[1:]]))
