"""The advantage actor-critic loss."""

from __future__ import annotations

from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase

from rlpipe.kinds import Regression
from rlpipe.losses import functional as F
from rlpipe.losses.base.actor_critic import ActorCriticLoss
from rlpipe.losses.base.terms import column, policy_terms, standardized, value_terms, written_keys
from rlpipe.modules.networks import computed_once


class A2CLoss(ActorCriticLoss):
    """Advantage actor-critic, Mnih et al. 2016, section 4 and Algorithm S3, on one batch instead of many threads.

    Reads the networks' `in_keys`, `action`, `advantage` and `value_target` `[*B, 1]`. The advantage is a constant to
    the gradient. Does not change its input.

    Returns the scalars `loss_policy`, `loss_value`, `loss_entropy`, multiplied by their coefficients, so that the total
    is their sum, and detached: `entropy`, `explained_variance`.

    Args:
        actor: has `get_dist`; ours or TorchRL's `ProbabilisticActor`.
        critic: writes `state_value` `[*B, 1]`; ours or TorchRL's `ValueOperator`.
        value_kind: `"mse"` or `"smooth_l1"`, as PyTorch defines them.
        value_coefficient: weight of `loss_value`; the paper's is 1.
        entropy_coefficient: weight of the entropy bonus; the paper's beta.
        normalize_advantage: to mean 0 and standard deviation 1 over the batch.
    """

    def __init__(
        self,
        actor: TensorDictModuleBase,
        critic: TensorDictModuleBase,
        *,
        value_kind: Regression = "mse",
        value_coefficient: float = 0.5,
        entropy_coefficient: float = 0.01,
        normalize_advantage: bool = False,
    ) -> None:
        super().__init__(actor, critic)
        self.value_kind = value_kind
        self.value_coefficient, self.entropy_coefficient = value_coefficient, entropy_coefficient
        self.normalize_advantage = normalize_advantage
        self.set_keys(**written_keys(actor))

    def set_in_keys(self) -> None:
        self.in_keys = [*self.policy_keys, self.tensor_keys.advantage, self.tensor_keys.value_target]
        self.out_keys = ["loss_policy", "loss_value", "loss_entropy", "entropy", "explained_variance"]

    def forward(self, batch: TensorDictBase) -> TensorDict:
        keys, batch = self.tensor_keys, self.with_advantage(batch)
        advantage = column(batch, keys.advantage)
        if self.normalize_advantage:
            advantage = standardized(advantage)
        with computed_once(self):
            log_prob, entropy = policy_terms(self.actor, batch, keys.action)
            value_loss, explained = value_terms(
                self.critic, batch, self.value_kind, None, keys.value, keys.value_target
            )
        entropy = entropy.mean()
        return TensorDict(
            {
                "loss_policy": F.policy_gradient(log_prob, advantage).mean(),
                "loss_value": self.value_coefficient * value_loss.mean(),
                "loss_entropy": -self.entropy_coefficient * entropy,
                "entropy": entropy.detach(),
                "explained_variance": explained,
            }
        )
