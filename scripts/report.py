"""`rlpipe report`: one HTML page that compares runs, from run folders."""

from __future__ import annotations

import datetime
import importlib.util
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from rlpipe.errors import ConfigError, RlpipeError, exists_already
from rlpipe.scripts.cli.options import parse
from rlpipe.scripts.cli.text import printable
from rlpipe.scripts.main import run
from rlpipe.version import __version__

DESCRIPTION = """Write one HTML page that compares runs: a table of interquartile means with 95 % intervals, learning
curves, probabilities of improvement, settings and GIFs. It is a single file that needs no network."""


@dataclass(frozen=True)
class Options:
    """Options of `rlpipe report`."""

    paths: Positional[tuple[Path, ...]] = (Path("runs"),)
    """Run folders, or folders that contain run folders at any depth."""
    out: Path = Path("report.html")
    """The new HTML file to write."""
    title: str = "rlpipe report"
    """Title of the page."""


def main(arguments: Sequence[str]) -> int:
    """Read the runs, and write the page."""
    options = parse(Options, arguments, prog="rlpipe report", description=DESCRIPTION)
    _check_out(options.out)
    if importlib.util.find_spec("plotly") is None:
        raise ConfigError('plotly, which draws the plots, is not installed: pip install "rlpipe[report]"')

    from rlpipe.scripts.reports.groups import survey

    found = survey(options.paths)
    if not found.rows and not found.unfinished:
        raise ConfigError(f"no run can be read; {'; '.join(found.notes)}")

    from plotly.offline import get_plotlyjs

    from rlpipe.scripts.reports.data import make_data
    from rlpipe.scripts.reports.gifs import Gifs
    from rlpipe.scripts.reports.page import make_page

    data = {
        "title": printable(options.title),
        "command": printable(shlex.join(["rlpipe", "report", *arguments])),
        "date": datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"),
        "version": __version__,
        **make_data(found, Gifs()),
    }
    content = make_page(data, get_plotlyjs()).encode()
    _write_new(options.out, content)
    for note in data["notes"]:
        print(f"rlpipe: note: {note}", file=sys.stderr)
    runs, groups = sum(len(row.runs) for row in found.rows), len(found.rows)
    unfinished = f", {len(found.unfinished)} unfinished" if found.unfinished else ""
    size = f"{len(content) / 1e6:.1f} MB"
    print(printable(f"{options.out}: {_count(runs, 'run')} in {_count(groups, 'group')}{unfinished}, {size}"))
    return 0


def _check_out(path: Path) -> None:
    """Refuse an output path that cannot be written, before any work."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"out is {path}; expected a name that ends in .html")
    if os.path.lexists(path):
        raise exists_already("out", path)
    if not path.parent.is_dir():
        raise ConfigError(f"out {path} cannot be written: {path.parent} is not a folder")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise RlpipeError(f"out {path} cannot be written: the folder {path.parent} is not writable")


def _write_new(path: Path, content: bytes) -> None:
    """Write the page under a temporary name and rename it when it is complete; a failure leaves no file."""
    from rlpipe.pipelines.checkpoints.durable_files import publish

    # the longest name allowed leaves no room for a suffix
    stage = path.with_name(f".{path.stem[:80]}.{os.getpid()}.partial")
    try:
        with stage.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        publish(stage, path)
    except OSError as error:
        raise RlpipeError(f"out {path} cannot be written: {error.strerror}") from error
    finally:
        stage.unlink(missing_ok=True)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


if __name__ == "__main__":
    sys.exit(run(["report", *sys.argv[1:]]))
