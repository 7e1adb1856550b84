"""Text that is safe to print."""

from __future__ import annotations


def printable(text: str) -> str:
    """Put a text in one line and replace control characters: names read from files may hold any."""
    return "".join(each if each.isprintable() else "?" for each in " ".join(text.split()))
