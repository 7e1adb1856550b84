"""What is being done, on the screen before the imports that it needs, which take seconds."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator

from rlpipe.lazy import quick_imports
from rlpipe.scripts.cli.text import printable

_ERASE = "\r\x1b[K"


@contextlib.contextmanager
def starting(what: str, *, quiet: bool = False, in_files: bool = False) -> Iterator[None]:
    """Import PyTorch within; a line on stderr says so, unless PyTorch is there already.

    Args:
        what: is being done.
        quiet: say nothing.
        in_files: also say it where stderr is no terminal; on one, the line is erased at the end.
    """
    said = not quiet and "torch" not in sys.modules
    with meanwhile(f"{what}: loading PyTorch", quiet=not said, in_files=in_files), quick_imports(of_a_command=True):
        yield


@contextlib.contextmanager
def meanwhile(text: str, *, quiet: bool = False, in_files: bool = False) -> Iterator[None]:
    """Show a text on a terminal within the block; with `in_files` also elsewhere, where it stays."""
    on_terminal = can_draw()
    shown = not quiet and (on_terminal or in_files)
    if shown:
        _write(_on_one_row(text) if on_terminal else f"{text}\n")
    try:
        yield
    finally:
        if shown and on_terminal:
            _write(_ERASE)


def can_draw() -> bool:
    """Whether stderr is a terminal on which something can be drawn and erased."""
    # there is none if the process was started without it
    return (
        sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")
    )


def _on_one_row(text: str) -> str:
    """A text whose row can be erased: without line ends, and cut where the terminal would go on in the next row."""
    return printable(text)[: shutil.get_terminal_size().columns - 1]


def _write(text: str) -> None:
    # a full disk must not stop the run
    with contextlib.suppress(OSError, ValueError):
        if sys.stderr is not None:
            print(text, file=sys.stderr, end="", flush=True)
