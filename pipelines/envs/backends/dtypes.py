"""Data types: PyTorch's substitutes for those that it lacks, and casts without loss.

Worker processes import this module, so it must not import PyTorch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, MultiDiscrete, Space, Tuple

# PyTorch cannot compare, index or add the types on the left, or not on every device
_READ_AS = {
    "bool": np.int8,
    "uint16": np.int32,
    "uint32": np.int64,
    "uint64": np.int64,
    "float16": np.float32,
    np.dtype(np.longdouble).name: np.float64,
}
_INTEGERS = "biu"
FINITE = "expected finite numbers in the range of float32"


class FaultError(Exception):
    """What an environment returned, and what was expected."""


def readable(space: Space[Any]) -> Space[Any]:
    """A space of the same numbers with a data type that PyTorch fully supports; the same space if it has one already.

    Unsigned integers become wider signed ones, uint64 beyond 2^63 float64, float16 float32, bool int8; the byte order
    becomes this machine's.
    """
    if isinstance(space, Dict):
        spaces = {key: readable(each) for key, each in space.items()}
        return Dict(spaces) if any(spaces[key] is not each for key, each in space.items()) else space
    if isinstance(space, Tuple):
        parts = [readable(each) for each in space]
        return Tuple(parts) if any(new is not old for new, old in zip(parts, space, strict=True)) else space
    if isinstance(space, MultiDiscrete) and space.dtype != np.int64:
        return MultiDiscrete(space.nvec.astype(np.int64), start=space.start.astype(np.int64))
    if not isinstance(space, Box):
        return space
    dtype = np.dtype(_READ_AS.get(space.dtype.name, space.dtype)).newbyteorder("=")
    if space.dtype == np.uint64 and space.high.size and space.high.max() > np.iinfo(np.int64).max:
        dtype = np.dtype(np.float64)
    return space if dtype == space.dtype else Box(space.low.astype(dtype), space.high.astype(dtype), dtype=dtype.type)


def cast(key: str, array: np.ndarray, own: np.dtype, read: np.dtype) -> np.ndarray:
    """Cast an array that was returned for a space of type `own` to `read`; a `FaultError` says what does not fit."""
    if array.dtype == own and own == read:
        return array
    kinds = array.dtype.kind, own.kind
    if not np.can_cast(array.dtype, own, "same_kind") and not all(kind in _INTEGERS for kind in kinds):
        raise FaultError(f"key {key!r} has dtype {array.dtype}, expected {own}")
    if own.kind in _INTEGERS and not np.can_cast(array.dtype, own, "safe"):
        least, most = (0, 1) if own.kind == "b" else (int(np.iinfo(own).min), int(np.iinfo(own).max))
        _refuse(key, array, (array < least) | (array > most), f"expected integers from {least} to {most}")
    if array.dtype.kind != "f":
        return array.astype(read)
    try:
        with np.errstate(over="raise"):
            return array.astype(read)
    except FloatingPointError:
        _refuse(key, array, np.isfinite(array) & (np.abs(array) > np.finfo(read).max), FINITE)
        return array.astype(read)


def _refuse(key: str, array: np.ndarray, wrong: np.ndarray, expected: str) -> None:
    if wrong.any():
        place = [int(each) for each in np.argwhere(wrong)[0]]
        at = f" at {place}" if place else ""
        raise FaultError(f"key {key!r} is {array[tuple(place)]}{at}, {expected}")
