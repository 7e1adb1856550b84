"""Shape checks of the losses: they say which key has which shape, and which was expected."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey
from torch import Tensor


def column(batch: TensorDictBase, key: NestedKey) -> Tensor:
    """Read `key`, `[*B, 1]` in a batch of shape `[*B]`, and return it as `[*B]`.

    Raises:
        KeyError: the batch has no such key.
        ValueError: the key has another shape.
    """
    value = read(batch, key)
    if value.shape != (*batch.batch_size, 1):
        raise ValueError(
            f"key {key!r} has shape {list(value.shape)}, expected {[*batch.batch_size, 1]} in a batch of shape "
            f"{list(batch.batch_size)}; add the last dimension with unsqueeze(-1)"
        )
    return value.squeeze(-1)


def scalar(batch: TensorDictBase, key: NestedKey) -> Tensor:
    """Read `key`, `[*B]` in a batch of shape `[*B]`.

    Raises:
        KeyError: the batch has no such key.
        ValueError: the key has another shape.
    """
    value = read(batch, key)
    if value.shape != batch.batch_size:
        raise ValueError(
            f"key {key!r} has shape {list(value.shape)}, expected {list(batch.batch_size)}: one number a sample"
        )
    return value


def discrete_action(batch: TensorDictBase, key: NestedKey = "action") -> Tensor:
    """Read an integer action `[*B]`.

    Raises:
        KeyError: the batch has no such key.
        ValueError: the action is one-hot, or of another shape or dtype.
    """
    action = read(batch, key)
    if action.dtype != torch.int64 or action.shape != batch.batch_size:
        raise ValueError(
            f"key {key!r} has dtype {action.dtype} and shape {list(action.shape)}, expected torch.int64 and "
            f"{list(batch.batch_size)}: the index of the action; pass categorical_action_encoding=True to a stock "
            "TorchRL environment, whose actions are one-hot otherwise"
        )
    return action


def read(batch: TensorDictBase, key: NestedKey) -> Tensor:
    """Read `key`, or say which keys there are.

    Raises:
        KeyError: the batch has no such key.
    """
    value = batch.get(key, None)
    if value is None:
        # KeyError prints its message in quotes, and so escapes any within
        there = ", ".join(".".join([key] if isinstance(key, str) else key) for key in batch.keys(True, True))
        raise KeyError(f"the batch has no key {key!r}; it has {there}")
    return value


def observed(batch: TensorDictBase, module: TensorDictModuleBase) -> TensorDictBase:
    """The entries that a module reads.

    Raises:
        KeyError: the batch lacks one.
    """
    for key in module.in_keys:
        read(batch, key)
    return batch.select(*module.in_keys)


def nested(keys: Sequence[NestedKey]) -> list[NestedKey]:
    """The same keys under `"next"`."""
    return [("next", *key) if isinstance(key, tuple) else ("next", key) for key in keys]
