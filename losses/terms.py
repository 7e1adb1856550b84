"""Terms that several losses share, and the checks of what losses read."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey
from torch import Tensor

from rlpipe.losses import functional as F


def policy_terms(actor: TensorDictModuleBase, batch: TensorDictBase) -> tuple[Tensor, Tensor]:
    """Log-probability of the batch's `action`, and the policy's entropy, both of shape `[*B]`.

    Args:
        actor: has `get_dist`.
        batch: the actor's `in_keys` and `action`, which is a nested TensorDict for Dict and Tuple actions.

    Raises:
        KeyError: the batch lacks a key.
        TypeError: the actor has no `get_dist`.
        ValueError: the action does not fit the actor, or not one log-probability a sample.
    """
    action = read(batch, "action")
    if not hasattr(actor, "get_dist"):
        raise TypeError(f"the actor is a {type(actor).__name__}, which has no get_dist; a CategoricalActor has")
    distribution = actor.get_dist(observed(batch, actor))
    try:
        log_prob = distribution.log_prob(action)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, ValueError, KeyError, IndexError) as error:
        raise ValueError(
            f"{_described(action)} has no log-probability under {type(actor).__name__}: {error}; it must be an action "
            "that this actor could have written"
        ) from error
    if log_prob.shape != batch.batch_size:
        raise ValueError(
            f"for {_described(action)} the actor's log-probability has shape {list(log_prob.shape)}, expected "
            f"{list(batch.batch_size)}: one a sample"
        )
    return log_prob, distribution.entropy()


def _described(action: Tensor | TensorDictBase) -> str:
    if isinstance(action, Tensor):
        return f"key 'action' of shape {list(action.shape)} and dtype {action.dtype}"
    return f"key 'action' with the entries {list(action.keys(True, True))}"


def action_keys(actor: TensorDictModuleBase) -> list[NestedKey]:
    """The entries of an action that the actor writes: `["action"]`, or those under it for Dict and Tuple actions."""
    keys = [key for key in actor.out_keys if (key if isinstance(key, str) else key[0]) == "action"]
    return keys or ["action"]


def value_terms(
    critic: TensorDictModuleBase, batch: TensorDictBase, kind: F.Regression = "mse", clip: float | None = None
) -> tuple[Tensor, Tensor]:
    """`F.value_loss` `[*B]` of the critic on the batch's `value_target`, and the explained variance, a scalar.

    Args:
        critic: writes `state_value` `[*B, 1]`.
        batch: the critic's `in_keys` and `value_target` `[*B, 1]`; with `clip` also the `state_value` `[*B, 1]` at
            collection.
        kind: `"mse"` or `"smooth_l1"`.
        clip: see `F.value_loss`.

    Raises:
        KeyError: the batch lacks a key.
        ValueError: a key, or what the critic writes, has another shape.
    """
    target = column(batch, "value_target")
    value = column(critic(observed(batch, critic)), "state_value")
    old_value = column(batch, "state_value") if clip is not None else None
    return F.value_loss(value, target, kind, old_value, clip), F.explained_variance(value.detach(), target)


def standardized(x: Tensor) -> Tensor:
    """Shift and scale `x` to mean 0 and standard deviation 1 over all elements; 0 if they are all equal."""
    return (x - x.mean()) / (x.std(correction=0) + 1e-8)


def read(batch: TensorDictBase, key: NestedKey) -> Tensor:
    """Read `key`; if the batch does not have it, a `KeyError` names those that it has."""
    value = batch.get(key, None)
    if value is None:
        # dots, because KeyError escapes the quotes of tuples
        there = ", ".join(".".join([key] if isinstance(key, str) else key) for key in batch.keys(True, True))
        raise KeyError(f"the batch has no key {key!r}; it has {there}")
    return value


def column(batch: TensorDictBase, key: NestedKey) -> Tensor:
    """Read `key`, `[*B, 1]` in a batch of shape `[*B]`, and return it as `[*B]`; raises the errors of `scalar`."""
    value = read(batch, key)
    if value.shape != (*batch.batch_size, 1):
        raise ValueError(
            f"key {key!r} has shape {list(value.shape)}, expected {[*batch.batch_size, 1]} in a batch of shape "
            f"{list(batch.batch_size)}; add the last dimension with unsqueeze(-1)"
        )
    return value.squeeze(-1)


def scalar(batch: TensorDictBase, key: NestedKey) -> Tensor:
    """Read `key`, `[*B]` in a batch of shape `[*B]`; without the key a `KeyError`, of another shape a `ValueError`."""
    value = read(batch, key)
    if value.shape != batch.batch_size:
        raise ValueError(
            f"key {key!r} has shape {list(value.shape)}, expected {list(batch.batch_size)}: one number a sample"
        )
    return value


def discrete_action(batch: TensorDictBase, key: NestedKey = "action") -> Tensor:
    """Read an integer action `[*B]`, as `scalar`; one that is one-hot, or of another dtype, is a `ValueError`."""
    action = read(batch, key)
    if action.dtype != torch.int64 or action.shape != batch.batch_size:
        raise ValueError(
            f"key {key!r} has dtype {action.dtype} and shape {list(action.shape)}, expected torch.int64 and "
            f"{list(batch.batch_size)}: the index of the action; pass categorical_action_encoding=True to a stock "
            "TorchRL environment, whose actions are one-hot otherwise"
        )
    return action


def observed(batch: TensorDictBase, module: TensorDictModuleBase) -> TensorDictBase:
    """Select the entries that a module reads; a `KeyError` names one that the batch lacks."""
    for key in module.in_keys:
        read(batch, key)
    return batch.select(*module.in_keys)


def nested(keys: Sequence[NestedKey]) -> list[NestedKey]:
    """The same keys under `"next"`."""
    return [("next", *key) if isinstance(key, tuple) else ("next", key) for key in keys]
