"""Options whose value is a schedule, `--clip linear:0.2:0`, brought into the form that tyro parses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def with_schedules_apart(arguments: Sequence[str], config: Any) -> list[str]:
    """The command line with `--schedule clip=linear:0.2:0` in place of `--clip linear:0.2:0`.

    The option `--schedule` may be given besides; of two for the same field, the last counts.

    Args:
        arguments: of the command line.
        config: whose fields are options.

    Raises:
        ConfigError: the Config has no field `schedule`.
    """
    present = getattr(config, "schedule", ())
    if config is None or not (present or any(":" in argument for argument in arguments)):
        return list(arguments)
    # loads PyTorch, which a mistyped command does not need
    from rlpipe.pipelines.config.schedules import number_kind, with_schedules

    kept: list[str] = []
    numbers: set[str] = set()
    given: dict[str, Any] = {}
    words = list(arguments)
    while words:
        written, equals, value = words.pop(0).partition("=")
        name = written.removeprefix("--").replace("-", "_")
        if written == "--schedule":
            entries = [value] if equals else []
            while words and not words[0].startswith("--"):
                entries.append(words.pop(0))
            given["schedule"] = (*given.get("schedule", ()), *entries)
        elif written.startswith("--") and number_kind(type(config), name) and _has_schedule(value, words, equals):
            given[name] = value if equals else words.pop(0)
        else:
            numbers.add(name)
            kept.append(f"{written}{equals}{value}")
    left = [each for each in present if each.partition("=")[0] not in numbers]
    if not given and len(left) == len(present):
        return kept
    return [*kept, "--schedule", *with_schedules({"schedule": left, **given}, type(config))["schedule"]]


def _has_schedule(value: str, words: Sequence[str], equals: str) -> bool:
    return ":" in (value if equals else (words or [""])[0])
