"""The clipped PPO loss."""

from __future__ import annotations

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase

from rlpipe.kinds import Regression
from rlpipe.losses import functional as F
from rlpipe.losses.base.actor_critic import ActorCriticLoss
from rlpipe.losses.base.terms import column, policy_terms, scalar, standardized, value_terms, written_keys
from rlpipe.modules.networks import computed_once


class ClipPPOLoss(ActorCriticLoss):
    """Clipped proximal policy optimisation, Schulman et al. 2017, equations 7 and 9.

    Reads the networks' `in_keys`, `action`, `action_log_prob` `[*B]`, `advantage` and `value_target` `[*B, 1]`, and
    with `value_clip` also the `state_value` `[*B, 1]` at collection. Does not change its input.

    Returns the scalars `loss_policy`, `loss_value`, `loss_entropy`, multiplied by their coefficients, so that the total
    is their sum, and detached: `entropy`, `approx_kl` (k3), `clip_fraction`, `explained_variance`.

    Args:
        actor: has `get_dist`; ours or TorchRL's `ProbabilisticActor`.
        critic: writes `state_value` `[*B, 1]`; ours or TorchRL's `ValueOperator`.
        clip: the paper's epsilon.
        value_clip: clip the value's step too, in units of return; `None` for the paper's plain regression.
        value_kind: `"mse"` or `"smooth_l1"`, as PyTorch defines them.
        value_coefficient: weight of `loss_value`; the paper's c1.
        entropy_coefficient: weight of the entropy bonus; the paper's c2.
        normalize_advantage: to mean 0 and standard deviation 1 over the minibatch.
    """

    def __init__(
        self,
        actor: TensorDictModuleBase,
        critic: TensorDictModuleBase,
        *,
        clip: float = 0.2,
        value_clip: float | None = None,
        value_kind: Regression = "mse",
        value_coefficient: float = 0.5,
        entropy_coefficient: float = 0.01,
        normalize_advantage: bool = True,
    ) -> None:
        super().__init__(actor, critic)
        self.clip, self.value_clip, self.value_kind = clip, value_clip, value_kind
        self.value_coefficient, self.entropy_coefficient = value_coefficient, entropy_coefficient
        self.normalize_advantage = normalize_advantage
        self.set_keys(**written_keys(actor))

    def set_in_keys(self) -> None:
        keys = self.tensor_keys
        self.in_keys = [*self.policy_keys, keys.sample_log_prob, keys.advantage, keys.value_target]
        if self.value_clip is not None:
            self.in_keys = [*self.in_keys, keys.value]
        losses, diagnostics = ["loss_policy", "loss_value", "loss_entropy"], ["entropy", "approx_kl", "clip_fraction"]
        self.out_keys = [*losses, *diagnostics, "explained_variance"]

    def forward(self, batch: TensorDictBase) -> TensorDict:
        keys, batch = self.tensor_keys, self.with_advantage(batch)
        advantage, old_log_prob = column(batch, keys.advantage), scalar(batch, keys.sample_log_prob)
        if self.normalize_advantage:
            advantage = standardized(advantage)
        with computed_once(self):
            log_prob, entropy = policy_terms(self.actor, batch, keys.action)
            value_loss, explained = value_terms(
                self.critic, batch, self.value_kind, self.value_clip, keys.value, keys.value_target
            )
        entropy = entropy.mean()
        with torch.no_grad():
            clipped = ((log_prob - old_log_prob).exp() - 1.0).abs() > self.clip
            approx_kl = F.approximate_kl(log_prob, old_log_prob).mean()
        return TensorDict(
            {
                "loss_policy": F.clipped_surrogate(log_prob, old_log_prob, advantage, self.clip).mean(),
                "loss_value": self.value_coefficient * value_loss.mean(),
                "loss_entropy": -self.entropy_coefficient * entropy,
                "entropy": entropy.detach(),
                "approx_kl": approx_kl,
                "clip_fraction": clipped.float().mean(),
                "explained_variance": explained,
            }
        )
