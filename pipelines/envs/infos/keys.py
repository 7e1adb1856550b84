"""The numbers of an `info` that are logged: how they are named, and how they are read from anything."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rlpipe.errors import ConfigError

_AT_END = ":last"
_MOST, _LONGEST = 100, 100
_MOST_NAMES, _MOST_LOOKED_AT = 20, 1_000
_PLAIN = frozenset({float, int, bool, np.bool_, np.float64, np.float32, np.int64})


class InfoKey(NamedTuple):
    """A number of an `info`.

    Args:
        name: its key; keys of nested dicts are joined by dots, as in `reward.forward`.
        at_end: whether it is read at the last step of an episode only, else at every step.
        metric: its name in metrics, `info/...`, which loggers accept.
    """

    name: str
    at_end: bool
    metric: str

    def find(self, info: Any) -> tuple[Any, Any]:
        """Its value in an `info`, and the mask `_key` that a vector environment has beside it; `None` if missing."""
        if not isinstance(info, dict):
            return None, None
        if self.name in info:
            return info[self.name], info.get(f"_{self.name}")
        *path, last = self.name.split(".")
        for part in path:
            info = info.get(part)
            if not isinstance(info, dict):
                return None, None
        return info.get(last), info.get(f"_{last}")


SUCCESS = InfoKey("is_success", at_end=True, metric="success_rate")


def parse_keys(spellings: Sequence[str]) -> tuple[InfoKey, ...]:
    """Read `KEY`, the mean over steps, and `KEY:last`, the value at the end of each episode.

    Raises:
        ConfigError: a key is empty, very long or given twice, or there are too many.
    """
    keys = tuple(map(_parse, spellings))
    if len(keys) > _MOST:
        raise ConfigError(f"log_info has {len(keys)} keys; allowed are at most {_MOST}")
    for index, key in enumerate(keys):
        if key.metric in [each.metric for each in keys[:index]]:
            raise ConfigError(f"log_info has {spellings[index]!r}, but {key.metric} is another key's metric already")
    return keys


def _parse(spelling: str) -> InfoKey:
    name, at_end = spelling.removesuffix(_AT_END), spelling.endswith(_AT_END)
    if not name.strip(". ") or len(name) > _LONGEST:
        raise ConfigError(
            f"log_info has {spelling[:_LONGEST]!r}; expected a key of info, such as x_velocity (mean over steps) or "
            f"x_position{_AT_END} (at the end of episodes)"
        )
    # MLflow allows these characters, and no others
    return InfoKey(name, at_end, f"info/{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}{'_last' if at_end else ''}")


def number_in(value: Any) -> float:
    """A number, an array or a tensor of one element as a float; NaN for anything else."""
    try:
        if type(value) in _PLAIN:
            return float(value)
        if isinstance(value, (str, bytes, list, tuple, dict)):
            return math.nan
        array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
        return float(array.item()) if array.size == 1 and array.dtype.kind in "biuf" else math.nan
    except Exception:  # an info may hold anything
        return math.nan


def numbers_in(value: Any, mask: Any, num_envs: int) -> np.ndarray:
    """A value of a vector environment's `info` as float64 `[num_envs]`; NaN where there is no number."""
    found = np.full(num_envs, np.nan)
    if value is None:
        return found
    try:
        array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
        if array.dtype.kind in "biuf" and array.size in (1, num_envs) and array.shape[1:] in ((), (1,)):
            found[:] = array.reshape(-1)
        elif array.shape == (num_envs,):
            found[:] = [number_in(each) for each in array]
        return found if mask is None else np.where(np.asarray(mask, dtype=bool).reshape(num_envs), found, np.nan)
    except Exception:  # an info may hold anything
        return np.full(num_envs, np.nan)


def names_in(info: Any, num_envs: int | None = None) -> list[str]:
    """The keys of an `info` that hold numbers, the first of them; with `num_envs`, of a vector environment's."""
    try:
        keys = [key for key in itertools.islice(info, _MOST_LOOKED_AT) if type(key) is str and not key.startswith("_")]
        keys = [key for key in keys if len(key) <= _LONGEST and _is_number(info[key], num_envs)]
        return keys[:_MOST_NAMES]
    except Exception:  # an info may hold anything
        return []


def _is_number(value: Any, num_envs: int | None) -> bool:
    if num_envs is None:
        return not math.isnan(number_in(value))
    return not np.isnan(numbers_in(value, None, num_envs)).all()
