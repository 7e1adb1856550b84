"""What somebody may have meant who mistyped a name."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name of which this one is a slip: a letter or two off, or its beginning; `None` if it is none's.

    What only looks somewhat alike, or begins with another letter, is no slip, and to suggest it leads astray.
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


def _distance(one: str, other: str, enough: int) -> int:
    """Letters to add, leave out, change or swap with their neighbour; anything above `enough` if it is more."""
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
