"""Options of the command line, parsed by tyro; what it rejects becomes one line."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import re
import sys
from collections.abc import Sequence
from typing import Any, TypeVar

from rlpipe.errors import ConfigError

T = TypeVar("T")


def parse(kind: type[T], arguments: Sequence[str], *, prog: str, description: str, default: T | None = None) -> T:
    """Parse `arguments` into a dataclass; `--help` prints and exits.

    Args:
        kind: a dataclass; a field `config` in it is a dataclass too, and its fields are options of the same rank.
        arguments: of the command line.
        prog: the command, for help.
        description: the first paragraph of the help.
        default: holds the default values.

    Raises:
        ConfigError: an unknown option, or a value that cannot be read; in one line.
    """
    import tyro

    _check_names(arguments, _option_names(kind if default is None else default))
    complaint = io.StringIO()
    options = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)
    extra: dict[str, Any] = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(kind, prog=prog, description=description, args=list(arguments), config=options, **extra)
    except SystemExit as stopped:
        if stopped.code in (0, None):
            sys.stderr.write(complaint.getvalue())
            raise
        raise ConfigError(_in_one_line(complaint.getvalue())) from None


def _option_names(holder: Any) -> list[str]:
    """All options of a dataclass, those of its `config` field included."""
    names: list[str] = []
    for field in dataclasses.fields(holder):
        if field.name == "config":
            names += _option_names(holder.config)
        else:
            names.append(field.name.replace("_", "-"))
    return names


def _check_names(arguments: Sequence[str], names: Sequence[str]) -> None:
    known = {*names, *(f"no-{name}" for name in names), "help"}
    for argument in arguments:
        name = argument.split("=")[0].removeprefix("--").replace("_", "-")
        if argument.startswith("--") and name not in known:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
            raise ConfigError(f"no option is called --{name}; {f'did you mean --{near[0]}?' if near else 'see --help'}")


def _in_one_line(complaint: str) -> str:
    """Tyro's message without its frame, its title and its hint about help."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", complaint)
    lines = [line.strip("│╭╮╰╯─ \t") for line in text.splitlines()]
    titles = ("Parsing error", "Value error", "Missing argument", "For full helptext")
    words = " ".join(line for line in lines if line and not line.startswith(titles))
    return words.split("Argument helptext:")[0].strip() or "the options cannot be read; see --help"
