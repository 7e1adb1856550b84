"""What the policy-gradient losses have in common: the networks called, their outputs checked."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from rlpipe.losses import functional as F
from rlpipe.losses.checks import column, observed, read


def policy_terms(actor: TensorDictModuleBase, batch: TensorDictBase) -> tuple[Tensor, Tensor]:
    """Log-probability of the batch's `action`, and the policy's entropy, both of shape `[*B]`.

    Args:
        actor: has `get_dist`.
        batch: the actor's `in_keys` and `action`.

    Raises:
        KeyError: the batch lacks a key.
        TypeError: the actor is none.
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
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"key 'action' of shape {list(action.shape)} and dtype {action.dtype} has no log-probability under "
            f"{type(actor).__name__}: {error}; it must be an action that this actor could have written"
        ) from error
    if log_prob.shape != batch.batch_size:
        raise ValueError(
            f"for key 'action' of shape {list(action.shape)} the actor's log-probability has shape "
            f"{list(log_prob.shape)}, expected {list(batch.batch_size)}: one a sample"
        )
    return log_prob, distribution.entropy()


def value_terms(
    critic: TensorDictModuleBase, batch: TensorDictBase, kind: F.Regression = "mse", clip: float | None = None
) -> tuple[Tensor, Tensor]:
    """`F.value_loss` `[*B]` of the critic on the batch's `value_target`, and the explained variance, a scalar.

    Args:
        critic: writes `state_value` `[*B, 1]`.
        batch: the critic's `in_keys` and `value_target` `[*B, 1]`; with `clip` the `state_value` `[*B, 1]` at
            collection too.
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
    """`x` shifted and scaled to mean 0 and standard deviation 1 over all its elements; 0 if they are all the same."""
    return (x - x.mean()) / (x.std(correction=0) + 1e-8)
