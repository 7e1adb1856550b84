"""Texts and numbers of run folders in a form that is safe for a page."""

from __future__ import annotations

import math
from typing import Any

from rlpipe.scripts.cli.text import printable

_LONGEST = 300


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
