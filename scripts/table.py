"""`rlpipe table`: a table of results over seeds, from run folders."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from rlpipe.errors import ConfigError, exists_already
from rlpipe.scripts.cli.options import parse
from rlpipe.scripts.cli.text import printable
from rlpipe.scripts.main import run
from rlpipe.scripts.reports.rows import as_json, describe, draw_results

DESCRIPTION = """Print a Markdown table of finished runs, one row for all runs that differ only in the seed: median
(min to max) of frames and seconds, and the interquartile mean of the evaluation returns after training, with its
bootstrap interval."""


@dataclass(frozen=True)
class Options:
    """Options of `rlpipe table`."""

    paths: Positional[tuple[Path, ...]] = (Path("runs"),)
    """Run folders, or folders that contain run folders at any depth."""
    json: bool = False
    """Print the result as one JSON object."""
    plot: Path | None = None
    """Plot evaluation returns against frames and training seconds in this new PNG file."""


def main(arguments: Sequence[str]) -> int:
    """Read the runs, and print the table."""
    options = parse(Options, arguments, prog="rlpipe table", description=DESCRIPTION)
    if options.plot is not None and options.plot.suffix.lower() != ".png":
        raise ConfigError(f"plot is {options.plot}; expected a name that ends in .png")

    from rlpipe.scripts.reports.groups import collect

    rows, notes = collect(options.paths)
    if options.plot is not None:
        _write_new(options.plot, draw_results(rows))
    for note in notes:
        print(f"rlpipe: note: {printable(note)}", file=sys.stderr)
    print(json.dumps({"rows": [as_json(row) for row in rows]}) if options.json else describe(rows))
    return 0


def _write_new(path: Path, content: bytes) -> None:
    try:
        with path.open("xb") as stream:
            stream.write(content)
    except FileExistsError:
        raise exists_already("plot", path) from None
    except OSError as error:
        raise ConfigError(f"plot {path} cannot be written: {error.strerror}") from error


if __name__ == "__main__":
    sys.exit(run(["table", *sys.argv[1:]]))
