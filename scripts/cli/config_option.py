"""`--config FILE` of `rlpipe train`, which is read before the options that it gives defaults to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlpipe.errors import ConfigError
from rlpipe.pipelines.algorithms.recipes import Recipe
from rlpipe.pipelines.algorithms.recipes.config_file import from_file

_CONFIG, _TRUST = "--config", "--trust-module"


def split_config(arguments: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The file that `--config` names, if it is there, and the other arguments.

    Raises:
        ConfigError: it names none, or is given twice.
    """
    files: list[str] = []
    others: list[str] = []
    left = iter(arguments)
    for argument in left:
        name, equals, value = argument.partition("=")
        if name != _CONFIG:
            others.append(argument)
            continue
        files.append(value if equals else next(left, ""))
        if not files[-1] or files[-1].startswith("--"):
            raise ConfigError(f"{_CONFIG} needs a file: {_CONFIG} options.json")
    if len(files) > 1:
        raise ConfigError(f"{_CONFIG} is given twice, with {files[0]} and {files[1]}; give one of them")
    return (Path(files[0]) if files else None), others


def configured(file: Path, named: Recipe | None, arguments: Sequence[str]) -> tuple[Recipe, Any]:
    """The recipe and the Config of a file; the arguments tell what it may run, see `--trust-module`."""
    return from_file(file, named, _trusted(arguments))


def _trusted(arguments: Sequence[str]) -> list[str]:
    trusted: list[str] = []
    taking = False
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if argument.startswith("--"):
            taking = name.replace("_", "-") == _TRUST
            trusted += [value] if taking and equals else []
        elif taking:
            trusted.append(argument)
    return trusted
