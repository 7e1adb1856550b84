"""Checks what a vector environment returns, the whole batch in each step, at almost no cost."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium.spaces import Space

from rlpipe.errors import TrainingError
from rlpipe.pipelines.envs.backends.dtypes import FINITE
from rlpipe.pipelines.envs.entries import Arrays, Key, name_of

# rewards in a batch, and observations in networks, are float32
_LARGEST = float(np.finfo(np.float32).max)
_FINITE_REWARD = "expected a finite number in the range of float32"
# for larger arrays BLAS's norm takes longer than NumPy's test
_FEW = 4096


class BatchChecker:
    """Refuses arrays of the wrong shape or type, and numbers outside float32, in the step that returns them.

    `spaces` are those of the entries of one environment's observation.
    """

    def __init__(self, num_envs: int, env_id: str | None, spaces: dict[Key, Space[Any]]) -> None:
        self._num_envs, self._spaces, self._steps = num_envs, spaces, 0
        self._id = f" ({env_id})" if env_id else ""
        self._accepted: list[tuple[object, object]] = []
        self._norms: list[tuple[Key, Callable[[np.ndarray], float]]] = []
        self._reward_norm: Callable[[np.ndarray], float] = _no_norm

    def begin_step(self) -> None:
        """Count a step, for messages."""
        self._steps += 1

    def check_step(self, observed: Arrays, reward: np.ndarray, terminated: np.ndarray, truncated: np.ndarray) -> None:
        """Check what a step returned, `[num_envs, ...]` each; a `TrainingError` names the first fault."""
        arrays = (*observed.values(), reward, terminated, truncated)
        form: list[tuple[object, object]] = [(array.shape, array.dtype) for array in arrays]
        if form != self._accepted:
            self._check_forms(observed, f"step {self._steps}")
            self._check_form("reward", reward, (), np.dtype(np.float64))
            self._check_form("terminated", terminated, (), np.dtype(np.bool_))
            self._check_form("truncated", truncated, (), np.dtype(np.bool_))
            norms = [(key, _norm_of(array)) for key, array in observed.items()]
            self._norms = [(key, norm) for key, norm in norms if norm is not _no_norm]
            self._reward_norm, self._accepted = _norm_of(reward), form
        # a norm is NaN or infinite if any number is; it may also overflow, so look at each number then
        if not (self._reward_norm(reward) <= _LARGEST and self.accepts(observed)):
            self._refuse_first("reward", reward, np.abs(reward) <= _LARGEST, _FINITE_REWARD)
            self._refuse_infinite(observed, restarted=terminated | truncated)

    def accepts(self, observed: Arrays) -> bool:
        """Whether float32 can hold all numbers of arrays like the last step's; `False` means perhaps not."""
        # a generator takes longer
        for key, norm in self._norms:  # noqa: SIM110
            if not norm(observed[key].ravel()) <= _LARGEST:
                return False
        return True

    def check_final(self, observed: Arrays, done: np.ndarray) -> None:
        """Check the last observations of the environments of `done`; a `TrainingError` names the first fault."""
        for key, array in observed.items():
            self._check_form(key, array, self._spaces[key].shape, array.dtype, rows=int(done.sum()))
        self._refuse_infinite(observed, indices=np.flatnonzero(done))

    def check_reset(self, observed: Arrays) -> None:
        """Check what a reset returned; a `TrainingError` names the first fault."""
        self._check_forms(observed, f"the reset after step {self._steps}")
        self._refuse_infinite(observed, restarted=np.ones(self._num_envs, dtype=bool))

    def final_of(self, info: Any) -> Any:
        """The last observations of the episodes that a step ended; a `TrainingError` if its info has none."""
        try:
            return info["final_obs"]
        except Exception:
            raise TrainingError(
                f"{self._all()} failed in step {self._steps}: an episode ended, and info has no 'final_obs', the last "
                "observations, as AutoresetMode.SAME_STEP says"
            ) from None

    def as_error(self, error: Exception, when: str = "") -> TrainingError:
        """A `TrainingError` for an exception of the vector environment."""
        when = when or f"step {self._steps}"
        return TrainingError(f"{self._all()} failed in {when}: {type(error).__name__}: {error}")

    def _all(self) -> str:
        return f"the {self._num_envs} environments{self._id}"

    def _check_forms(self, observed: Arrays, when: str) -> None:
        for key, array in observed.items():
            space = self._spaces[key]
            self._check_form(key, array, space.shape, space.dtype, when=when)

    def _check_form(
        self,
        key: Key,
        array: np.ndarray,
        shape: tuple[int, ...] | None,
        dtype: Any,
        *,
        rows: int | None = None,
        when: str = "",
    ) -> None:
        when = when or f"step {self._steps}"
        expected = (self._num_envs if rows is None else rows, *(shape or ()))
        if array.shape != expected:
            raise TrainingError(
                f"{self._all()} failed in {when}: key {name_of(key)!r} has shape {list(array.shape)}, expected "
                f"{list(expected)}"
            )
        # a mask has become bool
        if key != "action_mask" and not np.can_cast(array.dtype, dtype, "same_kind"):
            raise TrainingError(
                f"{self._all()} failed in {when}: key {name_of(key)!r} has dtype {array.dtype}, expected {dtype}"
            )

    def _refuse_infinite(self, observed: Arrays, **where: np.ndarray) -> None:
        for key, array in observed.items():
            self._refuse_first(key, array, _fits(array), FINITE, **where)

    def _refuse_first(
        self,
        key: Key,
        array: np.ndarray,
        fits: np.ndarray,
        expected: str,
        *,
        restarted: np.ndarray | None = None,
        indices: np.ndarray | None = None,
    ) -> None:
        """Refuse `array` `[n, ...]`, of the environments `indices` `[n]` or all, if any of `fits` is false."""
        if fits.all():
            return
        where = [int(each) for each in np.argwhere(~fits)[0]]
        row, place = where[0], where[1:]
        index = row if indices is None else int(indices[row])
        reset = restarted is not None and restarted[row]
        when = f"its reset after step {self._steps}" if reset else f"step {self._steps}"
        at = f" at {place}" if place else ""
        raise TrainingError(
            f"environment {index} of {self._num_envs}{self._id} failed in {when}: key {name_of(key)!r} is "
            f"{array[tuple(where)]}{at}, {expected}"
        )


def _fits(array: np.ndarray) -> np.ndarray:
    fits: np.ndarray = np.abs(array) <= _LARGEST if array.dtype.kind == "f" else np.ones(array.shape, bool)
    return fits


def _norm_of(array: np.ndarray) -> Callable[[np.ndarray], float]:
    """The cheapest function that is finite, overflow aside, if all numbers of arrays like this are."""
    if array.dtype.kind != "f" or not array.size:
        return _no_norm
    if array.size <= _FEW and array.dtype in (np.float32, np.float64):
        from scipy.linalg.blas import dnrm2, snrm2  # noqa: PLC0415 - takes a while

        return snrm2 if array.dtype == np.float32 else dnrm2
    return _all_finite


def _no_norm(array: np.ndarray) -> float:
    return 0.0


def _all_finite(array: np.ndarray) -> float:
    return 0.0 if _fits(array).all() else math.nan
