"""Checks that a state from a file fits the object it is loaded into.

What does not fit is refused here, by name, not some batches later in other code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler


class Kind(NamedTuple):
    """Shape and type of a column's rows.

    Args:
        shape: of a row.
        dtype: of its numbers.
        below: they are at least 0 and less than this, or than these, `[*shape]`; `None` is no limit.
    """

    shape: torch.Size
    dtype: torch.dtype
    below: int | Tensor | None = None


def check_like(own: Any, state: Any, where: str = "the state") -> None:
    """Refuse a state unless it has the keys, types and shapes of another.

    Args:
        own: of the object that loads it. Lists of numbers in it may have any length; dicts in a list are not checked,
            and `None` allows anything but tensors and dicts.
        state: the one to load.
        where: its name, for errors.

    Raises:
        ValueError: names the place.
    """
    if isinstance(own, dict):
        if not isinstance(state, dict) or set(state) != set(own):
            raise ValueError(f"{where} has {_named(state)}, expected {sorted(map(str, own))}")
        for key, value in own.items():
            check_like(value, state[key], f"{where}[{key!r}]")
    elif isinstance(own, (Tensor, np.ndarray)):
        if type(state) is not type(own) or (state.shape, state.dtype) != (own.shape, own.dtype):
            raise ValueError(f"{where} is {_shown(state)}, expected {_shown(own)}")
    elif isinstance(own, (list, tuple)):
        if type(state) is not type(own):
            raise ValueError(f"{where} is {_shown(state)}, expected a {type(own).__name__}")
        if isinstance(own, tuple):
            check_like(dict(enumerate(own)), dict(enumerate(state)), where)
    elif own is not None and not (type(state) is type(own) or (type(own) is float and type(state) is int)):
        raise ValueError(f"{where} is {_shown(state)}, expected one of type {type(own).__name__}")
    elif own is None and isinstance(state, (dict, Tensor, np.ndarray)):
        raise ValueError(f"{where} is {_shown(state)}, expected a plain value")


def check_numbers(values: Any, where: str) -> None:
    """Refuse anything but a list of numbers.

    Raises:
        ValueError: it is something else.
    """
    if type(values) is not list or any(type(each) not in (int, float, bool) for each in values):
        raise ValueError(f"{where} is not a list of numbers")


def check_optimizer(optimizer: torch.optim.Optimizer, state: Any) -> None:
    """Refuse the state of an optimiser of other parameters: PyTorch accepts moments of any shape.

    Raises:
        ValueError: names the parameter.
    """
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    for index, entries in state["state"].items():
        if index not in range(len(parameters)):
            raise ValueError(f"the state has a parameter {index!r}, expected at most {len(parameters) - 1}")
        for name, value in entries.items():
            if isinstance(value, Tensor) and value.ndim and value.shape != parameters[index].shape:
                own = list(parameters[index].shape)
                raise ValueError(f"{name} of parameter {index} has shape {list(value.shape)}, expected {own}")
    if isinstance(optimizer, (torch.optim.Adam, torch.optim.AdamW)):
        _check_adam(optimizer, state)


def _check_adam(optimizer: torch.optim.Optimizer, state: Any) -> None:
    """The same for Adam, whose fused code crashes on anything else."""
    for ours, theirs in zip(optimizer.state_dict()["param_groups"], state["param_groups"], strict=True):
        # a learning rate schedule keeps its first rate there
        check_like({"initial_lr": 0.0, **ours}, {"initial_lr": 0.0, **theirs}, "a group")
        check_numbers(list(theirs["betas"]), "betas")
    moments = {"step", "exp_avg", "exp_avg_sq"}
    for index, entries in state["state"].items():
        if set(entries) - {"max_exp_avg_sq"} != moments or not all(
            isinstance(each, Tensor) for each in entries.values()
        ):
            raise ValueError(f"parameter {index} has {_named(entries)}, expected tensors {sorted(moments)}")


def check_rows(rows: Any, kinds: Mapping[Any, Kind], where: str) -> None:
    """Refuse columns, nested for keys that are tuples, of other kinds or of different lengths.

    Raises:
        ValueError: names the first.
    """
    if not isinstance(rows, dict):
        raise ValueError(f"it is {_shown(rows)}, expected a dict")
    flat = _flat(rows)
    expected = {key if isinstance(key, tuple) else (key,): kind for key, kind in kinds.items()}
    if set(flat) != set(expected):
        raise ValueError(f"{where} has the entries {sorted(flat)}, expected {sorted(expected)}")
    lengths = {len(each) if isinstance(each, Tensor) and each.ndim else None for each in flat.values()}
    if len(lengths) != 1 or None in lengths:
        raise ValueError(f"{where} has entries of different lengths")
    for key, (shape, dtype, below) in expected.items():
        # a policy's actions may have another precision than the environment's
        own = flat[key].dtype if key[0] == "action" and dtype.is_floating_point else dtype
        if flat[key].shape[1:] != shape or flat[key].dtype != own:
            wanted = f"rows {list(shape)} of {dtype}"
            raise ValueError(f"{where} has {key} as {_shown(flat[key])}, expected {wanted}")
        if below is not None and not ((flat[key] >= 0) & (flat[key] < below)).all():
            most = (below - 1).tolist() if isinstance(below, Tensor) else below - 1
            raise ValueError(f"{where} has {key} that is not in the range from 0 to {most}")


def _flat(rows: dict[str, Any]) -> dict[tuple[str, ...], Any]:
    """Nested columns by their paths."""
    flat: dict[tuple[str, ...], Any] = {}
    for key, each in rows.items():
        if isinstance(each, dict) and each:
            flat.update({(key, *path): below for path, below in _flat(each).items()})
        else:
            flat[(key,)] = each
    return flat


def _named(state: Any) -> str:
    return f"{sorted(map(str, state))}" if isinstance(state, dict) else _shown(state)


def _shown(value: Any) -> str:
    if isinstance(value, (Tensor, np.ndarray)):
        return f"{'a tensor' if isinstance(value, Tensor) else 'an array'} {list(value.shape)} of {value.dtype}"
    return repr(value) if isinstance(value, (int, float, bool, type(None))) else f"a {type(value).__name__}"


def check_horizon(schedule: LRScheduler, saved: Mapping[str, Any]) -> None:
    """Refuse a schedule that would keep its old length in a run that continues to more frames."""
    for name in ("total_iters", "T_max", "total_steps"):
        now = schedule.state_dict().get(name)
        if saved.get(name) != now:
            raise ValueError(
                f"{type(schedule).__name__} had {name} {saved.get(name)} and has {now} now; it would keep the old "
                "one, so set the learning rate as a function of the frames instead"
            )
