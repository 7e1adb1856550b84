"""The entries of an observation or an action: one for each leaf of a space, however deep in Dicts and Tuples it is.

Worker processes import this module, so it must not import PyTorch.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Tuple

from rlpipe.errors import ConfigError

Key = str | tuple[str, ...]
"""A key of a TensorDict: that of a nested entry is a tuple."""
Arrays = dict[Key, np.ndarray]
COUNTERS = ("step_count", "episode_reward")
"""Entries beside an observation that the environment counts."""
LEAVES = (Box, Discrete, MultiDiscrete, MultiBinary)
WRITTEN = (
    "action",
    "action_log_prob",
    "action_value",
    "advantage",
    "chosen_action_value",
    "collector",
    "discount",
    "done",
    "episode_reward",
    "next",
    "reward",
    "state_value",
    "step_count",
    "terminated",
    "truncated",
    "value_target",
)
"""Names that a batch has anyway, which an entry of an observation cannot have."""


class Leaf(NamedTuple):
    """One entry.

    Args:
        space: of it.
        path: the keys and indices that lead to it in what the environment returns or takes.
    """

    space: Space[Any]
    path: tuple[str | int, ...]

    @property
    def get(self) -> Callable[[Any], Any]:
        """A function from the whole to this entry."""
        if not self.path:
            return _whole
        return operator.itemgetter(*self.path) if len(self.path) == 1 else functools.partial(_reach, self.path)


def leaves_of(space: Space[Any], what: str) -> dict[Key, Leaf]:
    """The leaves of a space, by key.

    An entry of a Dict keeps its name, one of a Tuple is called by its index; entries of a Dict in a Dict have nested
    keys. Entries of an observation are at the root of a TensorDict, those of an action under `action`. A space that is
    no Dict or Tuple is the one entry `what`.

    Args:
        space: of one environment.
        what: `observation` or `action`.

    Raises:
        ConfigError: a leaf is of a kind that rlpipe does not take, or its name is not allowed.
    """
    found: dict[tuple[str, ...], Leaf] = {}
    _collect(space, what, (), found)
    names = [".".join(key) for key in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"the {what} space has two entries called {twice[0]!r}; rename one by a wrapper")
    if what == "observation" and isinstance(space, (Dict, Tuple)):
        return {key[0] if len(key) == 1 else key: leaf for key, leaf in found.items()}
    return {what if not key else (what, *key): leaf for key, leaf in found.items()}


def is_of_boxes(space: Space[Any]) -> bool:
    """Whether a space is a Box, or a Dict or Tuple of nothing else."""
    if isinstance(space, (Dict, Tuple)):
        return all(map(is_of_boxes, space.values() if isinstance(space, Dict) else space))
    return isinstance(space, Box)


def name_of(key: Key) -> str:
    """A key as text, for messages and files."""
    return key if isinstance(key, str) else ".".join(key)


def named(entries: Mapping[Key, Any]) -> dict[str, Any]:
    """The same entries by their names."""
    return {name_of(key): value for key, value in entries.items()}


def nest(leaves: Mapping[Key, Leaf], values: Mapping[Key, Any], space: Space[Any]) -> Any:
    """Put values by key back into the form of `space`, whose `leaves` these are."""
    by_path = {leaf.path: values[key] for key, leaf in leaves.items()}
    return _rebuilt(space, (), by_path)


def copied(nested: Any) -> Any:
    """A copy of arrays in dicts and tuples."""
    if isinstance(nested, dict):
        return {key: copied(each) for key, each in nested.items()}
    return tuple(map(copied, nested)) if isinstance(nested, tuple) else nested.copy()


def _collect(space: Space[Any], what: str, path: tuple[str | int, ...], found: dict[tuple[str, ...], Leaf]) -> None:
    if isinstance(space, (Dict, Tuple)):
        parts: list[tuple[Any, Space[Any]]] = list(space.items() if isinstance(space, Dict) else enumerate(space))
        if not parts:
            raise ConfigError(f"the {_place(what, path)} space is an empty {type(space).__name__}; expected entries")
        for key, each in parts:
            _check_name(key, what, path)
            _collect(each, what, (*path, key), found)
        return
    if not isinstance(space, LEAVES):
        wrapper = f"gymnasium.wrappers.Transform{what.capitalize()}"
        raise ConfigError(
            f"the {_place(what, path)} space is {space}; rlpipe takes Box, Discrete, MultiDiscrete and MultiBinary, "
            f"and Dict and Tuple of these; wrap the environment to change it, for example in {wrapper}"
        )
    found[tuple(map(str, path))] = Leaf(space, path)


def _check_name(key: Any, what: str, path: tuple[str | int, ...]) -> None:
    if not isinstance(key, (str, int)) or key == "":
        raise ConfigError(
            f"the {_place(what, path)} space has an entry called {key!r}; rename it by a wrapper, to text"
        )
    if what == "observation" and not path and key in WRITTEN:
        raise ConfigError(
            f"the observation space has an entry called {key!r}, a name that rlpipe uses itself; rename it by a "
            "wrapper of the environment, such as gymnasium.wrappers.TransformObservation"
        )


def _place(what: str, path: tuple[str | int, ...]) -> str:
    return f"{what}'s {'.'.join(map(str, path))!r}" if path else what


def _whole(value: Any) -> Any:
    return value


def _reach(path: tuple[str | int, ...], value: Any) -> Any:
    for step in path:
        value = value[step]
    return value


def _rebuilt(space: Space[Any], path: tuple[str | int, ...], by_path: Mapping[tuple[str | int, ...], Any]) -> Any:
    if isinstance(space, Dict):
        return {key: _rebuilt(each, (*path, key), by_path) for key, each in space.items()}
    if isinstance(space, Tuple):
        return tuple(_rebuilt(each, (*path, index), by_path) for index, each in enumerate(space))
    return by_path[path]
