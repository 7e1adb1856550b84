"""What the policy-gradient losses have in common: the networks called, their outputs checked."""

from __future__ import annotations

from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from rlpipe.losses import functional as F
from rlpipe.losses.checks import column, read


def policy_terms(actor: TensorDictModuleBase, batch: TensorDictBase) -> tuple[Tensor, Tensor]:
    """Log-probability of the batch's `action`, and the policy's entropy, both of shape `[*B]`.

    Args:
        actor: has `get_dist`.
        batch: the actor's `in_keys` and `action`.

    Raises:
        KeyError: the batch has no `action`.
        ValueError: not one log-probability a sample.
    """
    action = read(batch, "action")
    distribution = actor.get_dist(batch.select(*actor.in_keys))
    log_prob = distribution.log_prob(action)
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
    value = column(critic(batch.select(*critic.in_keys)), "state_value")
    old_value = column(batch, "state_value") if clip is not None else None
    return F.value_loss(value, target, kind, old_value, clip), F.explained_variance(value.detach(), target)


def standardized(x: Tensor) -> Tensor:
    """`x` shifted and scaled to mean 0 and standard deviation 1 over all its elements; 0 if they are all the same."""
    return (x - x.mean()) / (x.std(correction=0) + 1e-8)
