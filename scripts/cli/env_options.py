"""The options for an environment's arguments and wrappers, brought into the form that tyro parses."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

from rlpipe.errors import ConfigError

_OF_ARGUMENTS = ("env-kwargs", "eval-env-kwargs")
_WRAPPER = "wrapper"


def gathered(arguments: Sequence[str], names: Collection[str]) -> list[str]:
    """The command line with one `--env-kwargs` of all that set arguments, and one `--wrapper` of all that name one.

    `--env-kwargs JSON` and `--env-kwargs.NAME VALUE` may be given several times; of one argument the last value counts.
    A value is read as JSON, or else is text.

    Args:
        arguments: of the command line.
        names: the options that there are.

    Raises:
        ConfigError: JSON cannot be read, or a value is missing.
    """
    kept = list(arguments)
    for option in _OF_ARGUMENTS:
        if option in names:
            kept = _with_arguments(kept, option)
    return _with_wrappers(kept) if _WRAPPER in names else kept


def _with_arguments(arguments: list[str], option: str) -> list[str]:
    kept: list[str] = []
    found: dict[str, Any] | None = None
    left = iter(arguments)
    for argument in left:
        written, equals, value = argument.partition("=")
        name, dot, key = written.removeprefix("--").partition(".")
        if not argument.startswith("--") or name.replace("_", "-") != option:
            kept.append(argument)
            continue
        if not equals:
            value = next(left, "--")
            if value.startswith("--"):
                what = f"a value: {written} 8x8" if dot else f"""a JSON object: {written} '{{"map_name": "8x8"}}'"""
                raise ConfigError(f"{written} needs {what}")
        if not dot and value.lower() == "none" and option != _OF_ARGUMENTS[0]:
            kept += [f"--{option}", "None"]
            continue
        read = _one(written, key, value) if dot else _read_json(value, written.removeprefix("--"))
        found = {**(found or {}), **read}
    return kept if found is None else [*kept, f"--{option}", json.dumps(found)]


def _read_json(value: str, what: str) -> dict[str, Any]:
    # loads Gymnasium, which a mistyped command does not need
    from rlpipe.pipelines.envs.arguments.names import read_json

    return read_json(value, what)


def _one(written: str, key: str, value: str) -> dict[str, Any]:
    name = key.replace("-", "_")
    if not name.isidentifier():
        raise ConfigError(f"{written} names no argument; expected one such as --env-kwargs.map-name 8x8")
    # NaN and Infinity are no JSON
    strange: dict[str, Any] = {}
    try:
        read = json.loads(value, parse_constant=lambda word: strange.setdefault(word, word))
    except (ValueError, RecursionError):
        return {name: value}
    return {name: value if strange else read}


def _with_wrappers(arguments: list[str]) -> list[str]:
    kept: list[str] = []
    wrappers: list[str] = []
    taking = False
    for argument in arguments:
        written, equals, value = argument.partition("=")
        if argument.startswith("--"):
            taking = written == f"--{_WRAPPER}"
            if taking:
                wrappers += [value] if equals else []
                continue
        (wrappers if taking else kept).append(argument)
    if not wrappers and f"--{_WRAPPER}" in arguments:
        raise ConfigError(f"--{_WRAPPER} needs a wrapper, such as gymnasium.wrappers:FlattenObservation")
    return [*kept, f"--{_WRAPPER}", *wrappers] if wrappers else kept


def add_rule(registry: Any) -> None:
    """Teach a constructor registry of tyro to read and show `Arguments`."""
    from tyro.constructors import PrimitiveConstructorSpec

    def rule(info: Any) -> Any:
        # by its name, because importing it loads Gymnasium
        if getattr(info.type, "__name__", None) != "Arguments":
            return None
        from rlpipe.pipelines.envs.arguments.names import Arguments

        return PrimitiveConstructorSpec(
            nargs=1,
            metavar="JSON",
            instance_from_str=lambda words: Arguments(_read_json(words[0], "env-kwargs")),
            is_instance=lambda each: isinstance(each, Arguments),
            str_from_instance=lambda given: [json.dumps(given)],
        )

    registry.primitive_rule(rule)
