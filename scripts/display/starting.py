"""What is being done, on the screen before PyTorch is imported, which takes seconds."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from rlpipe.lazy import quick_imports

_ERASE = "\r\x1b[K"


@contextlib.contextmanager
def starting(what: str, *, quiet: bool = False, in_files: bool = False) -> Iterator[None]:
    """Import PyTorch within; a line on stderr says so, unless PyTorch is there already.

    Args:
        what: is being done.
        quiet: say nothing.
        in_files: also say it where stderr is no terminal; on one, the line is erased at the end.
    """
    on_terminal = sys.stderr.isatty()
    said = not quiet and (on_terminal or in_files) and "torch" not in sys.modules
    if said:
        _write(f"{what}: loading PyTorch{'' if on_terminal else chr(10)}")
    try:
        with quick_imports(of_a_command=True):
            yield
    finally:
        if said and on_terminal:
            _write(_ERASE)


def _write(text: str) -> None:
    # a full disk must not stop the run
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, end="", flush=True)
