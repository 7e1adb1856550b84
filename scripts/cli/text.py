"""Text for a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """A text in one line, without what controls a terminal; names in files may be anything."""
    return "".join(each if each.isprintable() else "?" for each in " ".join(text.split()))
