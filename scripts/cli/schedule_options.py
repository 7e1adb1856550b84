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
    entries = _by_field(present)
    given: dict[str, str] = {}
    words = list(arguments)
    while words:
        word = words.pop(0)
        written, equals, value = word.partition("=")
        name = written.removeprefix("--").replace("-", "_") if written.startswith("--") else ""
        if name == "schedule":
            named = [value] if equals else []
            while words and not words[0].startswith("-"):
                named.append(words.pop(0))
            # they take the place of those of the Config
            entries = {field: entry for field, entry in entries.items() if entry not in present} | _by_field(named)
            given = {field: value for field, value in given.items() if field not in entries}
            continue
        is_number = bool(name and number_kind(type(config), name))
        if is_number:
            entries.pop(name, None)
            given.pop(name, None)
        if is_number and _has_schedule(value, words, equals):
            given[name] = value if equals else words.pop(0)
        else:
            kept.append(word)
    if not given and list(entries.values()) == list(present):
        return kept
    named = list(entries.values())
    return [*kept, "--schedule", *with_schedules({"schedule": named, **given}, type(config))["schedule"]]


def _by_field(entries: Sequence[str]) -> dict[str, str]:
    return {entry.partition("=")[0]: entry for entry in entries}


def _has_schedule(value: str, words: Sequence[str], equals: str) -> bool:
    return ":" in (value if equals else (words or [""])[0])
