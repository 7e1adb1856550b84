"""What vector environments return, as arrays of one form: observations, and an episode's last one."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from gymnasium.spaces import Dict, Discrete, Space

from rlpipe.pipelines.envs.backends.batch_checker import Arrays, BatchChecker

OBSERVED = ("observation", "action_mask", "lives")
"""The entries of an observation; only some environments have the last two."""


class ObservationReader:
    """Reads observations as arrays `[num_envs, ...]` of the types that PyTorch has, counted from 0 if Discrete.

    Args:
        space: of one environment's observation, as the environment has it.
        entries: the spaces of its entries, as they are read.
        checker: of what is read.
        reuses_arrays: whether arrays must be copied, because the environment may write into them later.
    """

    def __init__(
        self, space: Space[Any], entries: dict[str, Space[Any]], checker: BatchChecker, *, reuses_arrays: bool
    ) -> None:
        own, read = space["observation"] if isinstance(space, Dict) else space, entries["observation"]
        self._discrete, self._start = isinstance(read, Discrete), int(read.start) if isinstance(read, Discrete) else 0
        self._dtype = None if own.dtype == read.dtype else read.dtype
        self._has_mask, self._has_lives = "action_mask" in entries, "lives" in entries
        self._checker = checker
        # contiguous rows, because matrix products round differently otherwise, and every path must agree
        self.as_array = functools.partial(np.array, order="C") if reuses_arrays else np.ascontiguousarray

    def read(self, observation: Any) -> Arrays:
        """The entries of a batch of observations."""
        arrays = observation if isinstance(observation, dict) else {"observation": observation}
        state = arrays["observation"]
        if self._discrete:
            state = state.astype(np.int64) - self._start
        read = {"observation": self.as_array(state, dtype=self._dtype)}
        if self._has_mask:
            read["action_mask"] = arrays["action_mask"].astype(bool)
        if self._has_lives:
            read["lives"] = self.as_array(arrays["lives"])
        return read

    def last(self, observed: Arrays, final: np.ndarray | None, done: np.ndarray) -> Arrays:
        """The true next observations of a step: `final` for the environments of `done`, else `observed`."""
        # copies, because the caller may write into them
        if final is None:
            return {key: array.copy() for key, array in observed.items()}
        state = observed["observation"]
        if len(observed) == 1 and final.shape == state.shape and final.dtype != object:
            # the whole batch at once, which takes fewer operations
            merged = np.where(done.reshape(-1, *[1] * (state.ndim - 1)), self.read(final)["observation"], state)
            if merged.dtype == state.dtype and self._checker.accepts(merged):
                return {"observation": merged}
        last = self._read_final(final[done])
        self._checker.check_final(last, done)
        after = {key: array.copy() for key, array in observed.items()}
        for key, array in last.items():
            after[key][done] = array
        return after

    def _read_final(self, observations: np.ndarray) -> Arrays:
        """The entries of final observations: a batch, or as most vector environments have them, an array of objects."""
        if observations.dtype != object:
            return self.read(observations)
        rows = list(observations)
        if isinstance(rows[0], dict):
            return self.read({key: np.stack([row[key] for row in rows]) for key in rows[0]})
        return self.read(np.stack(rows))
