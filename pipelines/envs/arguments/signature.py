"""Checks of keyword arguments against what a class or function takes.

Worker processes import this module, so it must not import PyTorch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

from rlpipe.errors import ConfigError
from rlpipe.spelling import nearest

_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def check_arguments(
    make: Callable[..., Any],
    given: Mapping[str, Any],
    who: str,
    *,
    called_with: int = 0,
) -> None:
    """Check that `make` takes the arguments given, and needs no others, as far as its signature tells.

    Args:
        make: a class or function.
        given: arguments by name.
        who: takes them, for messages.
        called_with: how many arguments it gets before these.

    Raises:
        ConfigError: names what it takes, or what it needs.
    """
    parameters = _parameters(make)
    if parameters is None:
        return
    first = [each.name for each in parameters if each.kind in _BY_NAME][:called_with]
    named = {each.name: each for each in parameters if each.kind in _BY_NAME and each.name not in first}
    if not any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters):
        for name in given:
            if name not in named:
                raise unknown_argument(name, taken_by(make, first), who)
    for name, each in named.items():
        if each.default is inspect.Parameter.empty and name not in given:
            raise ConfigError(f"{who} needs an argument {name!r}, which is not given")


def unknown_argument(name: str, taken: Collection[str], who: str) -> ConfigError:
    """The error for an argument that `who` does not take."""
    near = nearest(name, taken)
    takes = ", ".join(taken) if taken else "none"
    return ConfigError(f"{who} takes no argument {name!r}; it takes {takes}{f'; did you mean {near}?' if near else ''}")


def taken_by(make: Callable[..., Any], without: Collection[str] = ()) -> list[str]:
    """The names of arguments that a class or function takes; of a class that passes others on, also its bases'."""
    taken: list[str] = []
    for each in make.__mro__ if isinstance(make, type) else (make,):
        parameters = _parameters(each) if each is make or "__init__" in vars(each) else None
        if parameters is None:
            continue
        # a base's arguments without a default are those that the class sets itself
        by_name = [one for one in parameters if one.kind in _BY_NAME]
        taken += [one.name for one in by_name if each is make or one.default is not inspect.Parameter.empty]
        if not any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters):
            break
    # set by rlpipe
    hidden = {*without, "render_mode"}
    return [name for name in dict.fromkeys(taken) if name not in hidden]


def needed_by(make: Callable[..., Any]) -> list[str]:
    """The names of arguments that a class or function cannot be called without."""
    by_name = [each for each in _parameters(make) or () if each.kind in _BY_NAME]
    return [each.name for each in by_name if each.default is inspect.Parameter.empty]


def _parameters(make: Callable[..., Any]) -> list[inspect.Parameter] | None:
    try:
        return list(inspect.signature(make).parameters.values())
    except (TypeError, ValueError):
        # written in C
        return None
