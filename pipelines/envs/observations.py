"""What vector environments return, as arrays of one form: observations, and an episode's last one."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete, Space

from rlpipe.errors import ConfigError
from rlpipe.pipelines.envs.backends.batch_checker import BatchChecker
from rlpipe.pipelines.envs.entries import Arrays, Key, Leaf, leaves_of

MASK = "action_mask"
"""The entry that allows actions; it becomes bool."""
Reader = Callable[..., np.ndarray]


def entries_of(space: Space[Any], actions: Space[Any]) -> dict[Key, Space[Any]]:
    """The spaces of an observation's entries, by key; the parts of an action mask are joined into one entry.

    Raises:
        ConfigError: an entry is of a kind that rlpipe does not take, or the action mask does not fit the actions.
    """
    entries = {key: leaf.space for key, leaf in leaves_of(space, "observation").items()}
    if not (parts := _parts_of_mask(space, actions)):
        return entries
    sizes = _choices(actions)
    found = [math.prod(leaf.space.shape or ()) for leaf in parts]
    if found not in ([sum(sizes)], sizes):
        each = f", or one mask for each of {sizes}" if len(sizes) > 1 else ""
        raise ConfigError(
            f"the action_mask has {' and '.join(map(str, found))} numbers, expected {sum(sizes)}: one an action{each}"
        )
    if len(entries) == len(parts):
        raise ConfigError("the observation space has nothing but an action_mask; expected something to observe")
    kept = {key: each for key, each in entries.items() if not _is_mask(key)}
    return {**kept, MASK: MultiBinary(sum(sizes))}


def _choices(actions: Space[Any]) -> list[int]:
    """How many choices each Discrete number of an action has."""
    counts: list[int] = []
    for leaf in leaves_of(actions, "action").values():
        if not isinstance(leaf.space, (Discrete, MultiDiscrete)):
            raise ConfigError(
                f"the action space is {actions}; an action_mask needs Discrete or MultiDiscrete actions, so leave it "
                "out by a wrapper of the environment"
            )
        counts += [int(each) for each in np.ravel(getattr(leaf.space, "nvec", getattr(leaf.space, "n", 0)))]
    return counts


def _parts_of_mask(space: Space[Any], actions: Space[Any]) -> list[Leaf]:
    """The leaves of an action mask, in the order of the actions; in their own if they are not called like these."""
    leaves = leaves_of(space, "observation").items()
    parts = {leaf.path[1:]: leaf for key, leaf in leaves if _is_mask(key)}
    # Gymnasium sorts the names of some Dicts
    order = [leaf.path for leaf in leaves_of(actions, "action").values()]
    return [parts[path] for path in order] if set(order) == set(parts) else list(parts.values())


def _is_mask(key: Key) -> bool:
    return key == MASK or (isinstance(key, tuple) and key[0] == MASK)


class ObservationReader:
    """Reads observations as arrays `[num_envs, ...]` of the types that PyTorch has, counted from 0 if Discrete.

    Args:
        space: of one environment's observation, as the environment has it.
        read: the same with the types in which it is read, see `readable`.
        actions: that the parts of an action mask are for.
        checker: of what is read.
        reuses_arrays: whether arrays must be copied, because the environment may write into them later.
    """

    def __init__(
        self, space: Space[Any], read: Space[Any], actions: Space[Any], checker: BatchChecker, *, reuses_arrays: bool
    ) -> None:
        self._checker = checker
        # contiguous rows, because matrix products round differently otherwise, and every path must agree
        self.as_array: Reader = functools.partial(np.array, order="C") if reuses_arrays else np.ascontiguousarray
        masks, leaves = _parts_of_mask(space, actions), leaves_of(read, "observation")
        own = leaves_of(space, "observation")
        self._readers: list[tuple[Key, Reader, Reader]] = [
            (key, leaf.get, self._reader(own[key].space, leaf.space))
            for key, leaf in leaves.items()
            if not _is_mask(key)
        ]
        if masks:
            self._readers.append((MASK, functools.partial(_flat, masks), _as_bool))

    def _reader(self, own: Any, read: Any) -> Reader:
        if isinstance(read, Box):
            dtype = None if own.dtype == read.dtype else read.dtype
            return self.as_array if dtype is None else functools.partial(self.as_array, dtype=dtype)
        if isinstance(read, MultiBinary):
            return self.as_array
        start = read.start
        return lambda array: self.as_array(array.astype(np.int64) - start)

    def read(self, observation: Any) -> Arrays:
        """The entries of a batch of observations."""
        return {key: read(get(observation)) for key, get, read in self._readers}

    def last(self, observed: Arrays, final: Any, done: np.ndarray) -> Arrays:
        """The true next observations of a step: `final` for the environments of `done`, else `observed`."""
        # copies, because the caller may write into them
        if final is None:
            return {key: array.copy() for key, array in observed.items()}
        if not isinstance(final, np.ndarray) or final.dtype != object:
            # the whole batch at once, which takes fewer operations
            read = self.read(final)
            if all(array.shape == observed[key].shape for key, array in read.items()):
                merged = {key: _where(done, array, observed[key]) for key, array in read.items()}
                same = all(array.dtype == observed[key].dtype for key, array in merged.items())
                if same and self._checker.accepts(merged):
                    return merged
            last = {key: array[done] for key, array in read.items()}
        else:
            last = self._read_rows(list(final[done]))
        self._checker.check_final(last, done)
        after = {key: array.copy() for key, array in observed.items()}
        for key, array in last.items():
            after[key][done] = array
        return after

    def _read_rows(self, rows: list[Any]) -> Arrays:
        """The entries of observations of one environment each, as most vector environments have the last ones."""
        return self.read(_stacked(rows))


def _where(done: np.ndarray, last: np.ndarray, next_: np.ndarray) -> np.ndarray:
    return np.where(done.reshape(-1, *[1] * (next_.ndim - 1)), last, next_)


def _stacked(rows: list[Any]) -> Any:
    if isinstance(rows[0], dict):
        return {key: _stacked([row[key] for row in rows]) for key in rows[0]}
    if isinstance(rows[0], tuple):
        return tuple(map(_stacked, map(list, zip(*rows, strict=True))))
    return np.stack(rows)


def _flat(parts: list[Leaf], observation: Any) -> np.ndarray:
    """The parts of a mask side by side, `[num_envs, choices]`."""
    each: list[np.ndarray] = [part.get(observation) for part in parts]
    flat = [array.reshape(len(array), -1) for array in each]
    return flat[0] if len(flat) == 1 else np.concatenate(flat, 1)


def _as_bool(mask: np.ndarray) -> np.ndarray:
    return mask.astype(bool)
