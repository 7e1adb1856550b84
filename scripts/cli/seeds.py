"""Seeds as an option spells them: `0-9`, `0,3,7` or `1-3,8`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from rlpipe.errors import ConfigError

MOST_SEEDS = 1_000


def read_seeds(text: str, at_most: int = 2**63 - 1) -> list[int]:
    """Read numbers and ranges, separated by commas, in the order given.

    Raises:
        ConfigError: `text` cannot be read, repeats a seed, or holds more than `MOST_SEEDS` or one above `at_most`.
    """
    seeds: list[int] = []
    for part in text.split(","):
        if not (found := re.fullmatch(r"\s*([0-9]{1,20})(?:\s*-\s*([0-9]{1,20}))?\s*", part)):
            raise ConfigError(f"seeds is {text!r}; expected numbers and ranges, such as 0-9 or 0,3,7 or 1-3,8")
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first:
            raise ConfigError(f"seeds is {text!r}, and {part.strip()} runs backwards; write {last}-{first}")
        if last > at_most:
            raise ConfigError(f"seeds is {text!r}; allowed is at most {at_most} for each")
        if len(seeds) + last - first >= MOST_SEEDS:
            raise ConfigError(f"seeds is {text!r}; allowed are at most {MOST_SEEDS} seeds")
        seeds += range(first, last + 1)
    seed, times = Counter(seeds).most_common(1)[0]
    if times > 1:
        raise ConfigError(f"seeds is {text!r}, which names seed {seed} more than once")
    return seeds


def spell(seeds: Sequence[int]) -> str:
    """Write seeds in the form that `read_seeds` reads."""
    parts: list[list[int]] = []
    for seed in seeds:
        if parts and parts[-1][-1] == seed - 1:
            parts[-1].append(seed)
        else:
            parts.append([seed])
    return ",".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)
