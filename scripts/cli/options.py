"""Options of the command line, parsed by tyro; what it rejects becomes one line."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from rlpipe.errors import ConfigError
from rlpipe.pipelines.config.foreign_names import explain

T = TypeVar("T")
Owners = Callable[[str], Sequence[str]]
"""Gives the algorithms that have an option of a name."""


def parse(
    kind: type[T],
    arguments: Sequence[str],
    *,
    prog: str,
    description: str,
    default: T | None = None,
    owners: Owners = lambda _: (),
) -> T:
    """Parse `arguments` into a dataclass; `--help` prints and exits.

    Args:
        kind: a dataclass; a field `config` in it is a dataclass too, and its fields are options of the same rank.
        arguments: of the command line.
        prog: the command, for help.
        description: the first paragraph of the help.
        default: holds the default values.
        owners: of options that `kind` has not.

    Raises:
        ConfigError: an unknown option, or a value that cannot be read; in one line.
    """
    import tyro

    arguments = _spell_none(arguments, _optional(kind if default is None else default))
    _check_names(arguments, _option_names(kind if default is None else default), owners)
    complaint = io.StringIO()
    options = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)
    extra: dict[str, Any] = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(kind, prog=prog, description=description, args=arguments, config=options, **extra)
    except SystemExit as stopped:
        if stopped.code in (0, None):
            sys.stderr.write(complaint.getvalue())
            raise
        raise ConfigError(_in_one_line(complaint.getvalue())) from None


RUN = (
    "RUN is a run folder, for its newest checkpoint; RUN@best, for the one of its best evaluation, RUN@last or "
    "RUN@<frames>; or a checkpoint in a run folder."
)


def parse_run(kind: type[T], arguments: Sequence[str], *, usage: str, prog: str, description: str) -> tuple[Path, T]:
    """Parse the path of a run, and the options behind it; `--help` prints and exits.

    Args:
        kind: a dataclass of the options.
        arguments: of the command line, at least one.
        usage: for whoever names no run first.
        prog: the command, for help.
        description: the first paragraph of the help.

    Raises:
        ConfigError: an option in place of the run, and as `parse`.
    """
    path, *rest = arguments
    if path.startswith("-") and path not in ("-h", "--help"):
        raise ConfigError(f"the run comes before the options, got {path!r}; {usage.strip()}")
    return Path(path), parse(kind, [path] if path.startswith("-") else rest, prog=prog, description=description)


def _option_names(holder: Any) -> list[str]:
    """All options of a dataclass, those of its `config` field included; what is on is switched off with `no-`."""
    names: list[str] = []
    for field in dataclasses.fields(holder):
        default = getattr(holder, field.name, field.default)
        if field.name == "config":
            names += _option_names(default)
        else:
            names.append(("no-" if default is True else "") + field.name.replace("_", "-"))
    return names


def _optional(holder: Any) -> set[str]:
    """The options of a dataclass that take none, those of its `config` field included."""
    names: set[str] = set()
    hints = get_type_hints(holder if isinstance(holder, type) else type(holder))
    for field in dataclasses.fields(holder):
        if field.name == "config":
            names |= _optional(getattr(holder, field.name))
        elif type(None) in get_args(hints[field.name]):
            names.add(field.name.replace("_", "-"))
    return names


def _spell_none(arguments: Sequence[str], optional: set[str]) -> list[str]:
    """None as tyro reads it, behind options that take it; elsewhere it is a name like any other."""
    spelled, option = [], ""
    for argument in arguments:
        if argument.startswith("--"):
            option = argument.removeprefix("--").replace("_", "-")
        is_none = option in optional and argument.lower() == "none"
        spelled.append("None" if is_none else argument)
    return spelled


def _check_names(arguments: Sequence[str], names: Sequence[str], owners: Owners) -> None:
    """Refuse options that there are not, all of them at once, and say what each is here."""
    unknown: dict[str, str] = {}
    for argument in arguments:
        if not argument:
            raise ConfigError("one of the options is empty")
        option = argument.split("=")[0]
        name = option.removeprefix("--").replace("_", "-")
        is_short = re.fullmatch("-[A-Za-z]+", option) is not None and option != "-h"
        if (is_short or option.startswith("--")) and name not in (*names, "help"):
            unknown[option if is_short else f"--{name}"] = explain(name, names, owners) or "see --help"
    if unknown:
        sentences = [f"{option}; {hint}{'' if hint.endswith('?') else '.'}" for option, hint in unknown.items()]
        raise ConfigError(f"no option is called {' Nor '.join(sentences).removesuffix('.')}")


def _in_one_line(complaint: str) -> str:
    """What tyro says, without its frame, the title in it, its hint about help and what it tried."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", complaint)
    lines = [line.strip("│╭╮╰╯─- \t") for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("For full helptext")]
    if len(lines) > 1 and re.fullmatch("[A-Za-z ]+", lines[0]):
        lines = lines[1:]
    words = re.split("Argument helptext:|Got errors:", " ".join(lines))[0].strip()
    return _in_plain_words(words) or "the options cannot be read; see --help"


def _in_plain_words(words: str) -> str:
    """What tyro says of a value that it cannot read, without its types and Python's."""
    if not (found := re.match(r"Error parsing (--[\w-]+): (.*)", words)):
        return words
    option, reason = found.groups()
    value = (re.findall(r"('[^']*')", reason) or ["what it got"])[-1]
    if "int()" in reason or "INT" in reason:
        expected = "a whole number"
    elif "float" in reason or "FLOAT" in reason:
        expected = "a number"
    else:
        return f"{option} cannot be read from {value}; several values are separated by spaces, see --help"
    expected = expected if "[" not in reason.split(" could ")[0] else f"{expected}, or several with spaces between"
    return f"{option} is {value}; expected {expected}{' or none' if '{None}' in reason else ''}"
