"""Suggestions for mistyped names."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that this one most likely means, or `None`.

    It begins with the same letter and is a typing error or two away, or is the only one that begins with `name`. Names
    that are less alike are not suggested, because they mislead.
    """
    lower = name.lower()
    candidates = [each for each in sorted(known) if each[:1].lower() == lower[:1]]
    if not lower or not candidates:
        return None
    allowed = 1 if len(name) < 6 else 2
    distance, near = min((_distance(lower, each.lower(), allowed), each) for each in candidates)
    if distance <= allowed and distance < len(name):
        return near
    begun = [each for each in candidates if len(name) >= 4 and each.lower().startswith(lower)]
    return begun[0] if len(begun) == 1 else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint for an unknown name: the known one that it most likely means, or all of them."""
    known = list(known)
    near = nearest(name, known)
    return f"did you mean {near}?" if near else f"there are {', '.join(known)}"


def _distance(one: str, other: str, enough: int) -> int:
    """The letters to add, remove, change or swap with their neighbour; any number above `enough` if more than that."""
    if abs(len(one) - len(other)) > enough:
        return enough + 1
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        before, last, row = row, before, [i]
        for j, another in enumerate(other, 1):
            costs = [before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != another)]
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == another:
                costs.append(last[j - 2] + 1)
            row.append(min(costs))
    return row[-1]
