"""The REINFORCE loss."""

from __future__ import annotations

from typing import get_args

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from rlpipe.kinds import Normalization, Regression
from rlpipe.losses import functional as F
from rlpipe.losses.base.actor_critic import ActorCriticLoss
from rlpipe.losses.base.keys import ReinforceKeys
from rlpipe.losses.base.terms import column, policy_terms, standardized, value_terms, written_keys
from rlpipe.modules.networks import computed_once


class ReinforceLoss(ActorCriticLoss):
    """Monte Carlo policy gradient, Williams 1992, section 5; with a critic as baseline, Sutton and Barto 2018, 13.4.

    Reads the actor's `in_keys`, `action` and `advantage` `[*B, 1]`, the weight of each step: its return-to-go, minus
    the baseline if there is one (`ReturnToGo` writes it). It is a constant to the gradient. With a critic, also reads
    its `in_keys` and `value_target` `[*B, 1]`; with `normalize="episode"`, `episode` `[*B, 1]`: int64, the same number
    for all steps of an episode. Does not change its input.

    Returns the scalars `loss_policy`, `loss_entropy` and with a critic `loss_value`, multiplied by their coefficients,
    so that the total is their sum; and detached: `entropy`, with a critic `explained_variance`.

    Args:
        actor: has `get_dist`; ours or TorchRL's `ProbabilisticActor`.
        critic: the baseline that learns; writes `state_value` `[*B, 1]`; ours or TorchRL's `ValueOperator`.
        normalize: the weights to mean 0 and standard deviation 1, over the `"batch"` or within each `"episode"`
            (where an episode of one step weighs 0), or not: `"none"`.
        value_kind: `"mse"` or `"smooth_l1"`, as PyTorch defines them.
        value_coefficient: weight of `loss_value`.
        entropy_coefficient: weight of the entropy bonus, which Williams' algorithm does not have.

    Raises:
        ValueError: an unknown `normalize`.
    """

    _AcceptedKeys = ReinforceKeys

    def __init__(
        self,
        actor: TensorDictModuleBase,
        critic: TensorDictModuleBase | None = None,
        *,
        normalize: Normalization = "none",
        value_kind: Regression = "mse",
        value_coefficient: float = 0.5,
        entropy_coefficient: float = 0.0,
    ) -> None:
        super().__init__(actor, critic)
        if normalize not in get_args(Normalization):
            raise ValueError(f"normalize is {normalize!r}; allowed are {', '.join(map(repr, get_args(Normalization)))}")
        self.normalize, self.value_kind = normalize, value_kind
        self.value_coefficient, self.entropy_coefficient = value_coefficient, entropy_coefficient
        self.set_keys(**written_keys(actor))

    def set_in_keys(self) -> None:
        keys = self.tensor_keys
        self.in_keys, self.out_keys = [*self.policy_keys, keys.advantage], ["loss_policy", "loss_entropy", "entropy"]
        if self.critic is not None:
            self.in_keys = [*self.in_keys, keys.value_target]
            self.out_keys = ["loss_policy", "loss_value", "loss_entropy", "entropy", "explained_variance"]
        if self.normalize == "episode":
            self.in_keys = [*self.in_keys, keys.episode]

    def forward(self, batch: TensorDictBase) -> TensorDict:
        keys, batch = self.tensor_keys, self.with_advantage(batch)
        weight = self._weight(batch)
        with computed_once(self):
            log_prob, entropy = policy_terms(self.actor, batch, keys.action)
            entropy = entropy.mean()
            out = TensorDict({"loss_policy": F.policy_gradient(log_prob, weight).mean()})
            if self.critic is not None:
                value_keys = keys.value, keys.value_target
                value_loss, explained = value_terms(self.critic, batch, self.value_kind, None, *value_keys)
                out["loss_value"] = self.value_coefficient * value_loss.mean()
                out["explained_variance"] = explained
        out["loss_entropy"] = -self.entropy_coefficient * entropy
        out["entropy"] = entropy.detach()
        return out

    def _weight(self, batch: TensorDictBase) -> Tensor:
        weight = column(batch, self.tensor_keys.advantage)
        if self.normalize == "batch":
            return standardized(weight)
        if self.normalize == "episode":
            return _standardized_within(weight, column(batch, self.tensor_keys.episode))
        return weight


def _standardized_within(x: Tensor, group: Tensor) -> Tensor:
    """`x` `[*B]` to mean 0 and standard deviation 1 within the elements of each number in `group` `[*B]`."""
    _, index, count = group.unique(return_inverse=True, return_counts=True)

    def mean(y: Tensor) -> Tensor:
        total = torch.zeros(len(count), dtype=y.dtype, device=y.device).index_add(0, index.flatten(), y.flatten())
        return (total / count)[index]

    centered = x - mean(x)
    return centered / (mean(centered.square()).sqrt() + 1e-8)
