"""Command-line options, parsed by tyro; every error is one line."""

from __future__ import annotations

import contextlib
import io
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rlpipe.errors import ConfigError
from rlpipe.pipelines.config.foreign_names import explain
from rlpipe.scripts.cli.env_options import add_rule, gathered
from rlpipe.scripts.cli.help import Option, help_of, options_of
from rlpipe.scripts.cli.schedule_options import with_schedules_apart

T = TypeVar("T")
Owners = Callable[[str], Sequence[str]]
"""Returns the algorithms that have an option of this name."""


def parse(
    kind: type[T],
    arguments: Sequence[str],
    *,
    prog: str,
    description: str,
    default: T | None = None,
    owners: Owners = lambda _: (),
) -> T:
    """Parse `arguments` into a dataclass; `--help` prints the help and exits.

    If the dataclass has a field `config`, which is a dataclass too, the fields of that are options as well; `default`
    then holds their default values. `owners` names the algorithms that have an option which `kind` does not have.

    Raises:
        ConfigError: an option is unknown, or a value cannot be read.
    """
    options = options_of(kind if default is None else default)
    _check_once([each.field for each in options])
    if {"-h", "--help"} & set(arguments):
        print(help_of(options, prog, description), end="")
        raise SystemExit(0)
    import tyro

    known = {each.name: each.takes_none for each in options}
    arguments = gathered(with_schedules_apart(arguments, getattr(default, "config", None)), known)
    arguments = _spelled(arguments, {each.name: each for each in options})
    _check_names(arguments, list(known), owners)
    complaint = io.StringIO()
    form = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)
    extra: dict[str, Any] = {"registry": tyro.constructors.ConstructorRegistry()}
    add_rule(extra["registry"])
    extra |= {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(kind, prog=prog, description=description, args=arguments, config=form, **extra)
    except SystemExit:
        raise ConfigError(_in_one_line(complaint.getvalue(), arguments)) from None


RUN = (
    "RUN is a run folder (the newest checkpoint is used), RUN@best (the checkpoint with the best evaluation), "
    "RUN@last, RUN@<frames>, or a checkpoint in a run folder."
)


@dataclass(frozen=True)
class RunOptions:
    """Options of every command that takes a RUN."""

    trust_module: tuple[str, ...] = ()
    """Python modules or files to import first: the one that registers the run's environment, or has its algorithm."""
    json: bool = False
    """Print the result as one JSON object."""


R = TypeVar("R", bound=RunOptions)


def parse_run(kind: type[R], arguments: Sequence[str], command: str, description: str) -> tuple[Path, R]:
    """Parse the path of a run and the options after it; no argument or `--help` prints the help and exits.

    Raises:
        ConfigError: an option comes before the run; also see `parse`.
    """
    path, *rest = arguments or ["--help"]
    if path.startswith("-") and path not in ("-h", "--help"):
        way = f"rlpipe {command} RUN {path} ..."
        way += ", or rlpipe render --random ENV_ID ..." if command == "render" else ""
        raise ConfigError(f"the run comes before the options, got {path!r}; try: {way}")
    prog = f"rlpipe {command} RUN"
    return Path(path), parse(kind, [path] if path.startswith("-") else rest, prog=prog, description=description)


def _spelled(arguments: Sequence[str], options: Mapping[str, Option]) -> list[str]:
    """Write `none` and `1e6` as tyro reads them, for options that accept them; for others they are ordinary words."""
    spelled, option = [], None
    for argument in arguments:
        if argument.startswith("--"):
            option = options.get(argument.removeprefix("--").replace("_", "-"))
        if option is not None and option.takes_none and argument.lower() == "none":
            spelled.append("None")
        elif option is not None and option.takes_whole and re.fullmatch(r"\d+(\.\d+)?[eE]\+?\d{1,2}", argument):
            number = float(argument)
            spelled.append(str(int(number)) if number.is_integer() else argument)
        else:
            spelled.append(argument)
    return spelled


def _check_names(arguments: Sequence[str], names: Sequence[str], owners: Owners) -> None:
    """Refuse all unknown options at once, with a hint for each."""
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


def _check_once(fields: Sequence[str]) -> None:
    """Refuse a user's Config with a field that the command has as well."""
    if twice := sorted({each for each in fields if fields.count(each) > 1}):
        raise ConfigError(f"Config has a field {twice[0]!r}, which is an option of the command too; rename it")


def _in_one_line(complaint: str, arguments: Sequence[str]) -> str:
    """The message in tyro's error output, without its frame, its title, its hint about help and what it tried."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", complaint)
    lines = [line.strip("│╭╮╰╯─- \t") for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("For full helptext")]
    if len(lines) > 1 and re.fullmatch("[A-Za-z ]+", lines[0]):
        lines = lines[1:]
    words = re.split("Argument helptext:|Got errors:", " ".join(lines))[0].strip()
    return _of_names(words, arguments) or _in_plain_words(words) or "the options cannot be read; see --help"


def _of_names(words: str, arguments: Sequence[str]) -> str:
    """Tyro's message about a value that is none of the choices, or that belongs to no option, in our words."""
    if found := re.match(r"invalid choice ('.*') for argument '(--[\w-]+)'\. Expected one of \((.*)\)", words):
        value, option, choices = found.groups()
        allowed = [each for each in re.findall("'([^']*)'", choices) if each != "None"]
        return f"{option} is {value}; allowed are {', '.join(sorted(allowed))}"
    if found := re.match("Unrecognized options: (.*)", words):
        value, before = found[1], [each for each in arguments if each.startswith("--")]
        first = value.split()[0]
        after = next((each for each, then in itertools.pairwise(arguments) if then == first), "")
        if after in before and "=" not in after:
            return f"{after} takes no value, got {value!r}"
        return f"{value!r} belongs to no option; see --help"
    return ""


def _in_plain_words(words: str) -> str:
    """Tyro's message about a value that it cannot read, without Python types."""
    if not (found := re.match(r"Error parsing (--[\w-]+): (.*)", words)):
        return words
    option, reason = found.groups()
    value = (re.findall(r"('[^']*')", reason) or ["its value"])[-1]
    if "int()" in reason or "INT" in reason:
        expected = "a whole number"
    elif "float" in reason or "FLOAT" in reason:
        expected = "a number"
    else:
        return f"{option} cannot be read from {value}; separate several values by spaces, see --help"
    expected = expected if "[" not in reason.split(" could ")[0] else f"{expected}, or several with spaces between"
    return f"{option} is {value}; expected {expected}{' or none' if '{None}' in reason else ''}"
