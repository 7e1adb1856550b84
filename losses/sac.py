"""The SAC loss."""

from __future__ import annotations

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn

from rlpipe.losses import functional as F
from rlpipe.losses.base.action_values import ActionValueLoss, sampled
from rlpipe.losses.base.target import frozen
from rlpipe.losses.base.terms import read


class SACLoss(ActionValueLoss):
    """Soft actor-critic with a learned temperature: three losses in one sum.

    Haarnoja et al. 2018, "Soft Actor-Critic Algorithms and Applications" (arXiv:1812.05905), Algorithm 1. Each loss
    reaches its own parameters only, so that one optimiser of the sum takes the steps of three.

    Reads `action` `[*B, *D]`, the `in_keys` of actor and critics, and under `next` the same, `reward` and `terminated`
    `[*B, 1]`; with `n_step`, `discount` `[*B, 1]` instead of `terminated`, as `NStep` writes it. Truncation does not
    cut the bootstrap. Does not change its input. Actions are drawn from PyTorch's global generator.

    Returns `loss_td` (the sum over the critics of their mean squared errors), `loss_policy` and, if the temperature is
    learned, `loss_alpha`; and detached: `td_error`, the mean absolute error, `q_mean`, `entropy` (the mean of minus the
    log-probabilities) and `alpha`. Keys are changed by `set_keys`.

    Args:
        actor: has `get_dist`, with reparameterised samples, such as a `GaussianActor`.
        critics: usually two that began differently, such as `ActionValueCritic`s; each writes `state_action_value`
            `[*B, 1]`. The smallest value counts.
        gamma: discount factor.
        alpha: the temperature; with a `target_entropy`, the first one.
        target_entropy: in nats, the entropy at which the temperature stays, in the paper minus the number of elements
            of an action; `None` keeps `alpha` as it is.
        log_scale: added to every log-probability, to count out the unit of actions: an element between -a and a has
            log(a) nats more than one between -1 and 1, to which the paper's `target_entropy` belongs.
        n_step: read the discount of the bootstrap from the batch; `gamma` is not used.

    Raises:
        ValueError: a temperature that is learned does not begin above 0.
        TypeError: in a call, the actor has no `get_dist`, or no reparameterised samples.
    """

    log_alpha: nn.Parameter | None

    def __init__(
        self,
        actor: TensorDictModuleBase,
        critics: nn.ModuleList,
        *,
        gamma: float = 0.99,
        alpha: float = 1.0,
        target_entropy: float | None = None,
        log_scale: float = 0.0,
        n_step: bool = False,
    ) -> None:
        super().__init__(actor, critics, gamma, n_step=n_step)
        self.alpha, self.target_entropy, self.log_scale = alpha, target_entropy, log_scale
        learned = target_entropy is not None
        if learned and not alpha > 0:
            raise ValueError(f"alpha is {alpha}; a temperature that is learned begins above 0")
        self.log_alpha = nn.Parameter(torch.tensor(alpha, dtype=torch.get_default_dtype()).log()) if learned else None
        self.set_in_keys()

    def set_in_keys(self) -> None:
        super().set_in_keys()
        temperature = ["loss_alpha"] if self.log_alpha is not None else []
        self.out_keys = [*self.out_keys, "loss_policy", "entropy", "alpha", *temperature]

    def forward(self, batch: TensorDictBase) -> TensorDict:
        alpha = self.alpha if self.log_alpha is None else self.log_alpha.detach().exp()
        with torch.no_grad():
            target = self._target(read(batch, "next"), alpha)
        out = self.critic_terms(batch, target)
        action, log_prob = sampled(self.actor, batch)
        log_prob = log_prob + self.log_scale
        with frozen(self.critics):
            value = self.values(self.critics, batch, action)
        out.set("loss_policy", F.soft_policy_loss(log_prob, value, alpha).mean())
        out.set("entropy", -log_prob.detach().mean()).set("alpha", log_prob.new_zeros(()) + alpha)
        if self.log_alpha is not None and self.target_entropy is not None:
            out.set("loss_alpha", F.temperature_loss(self.log_alpha, log_prob, self.target_entropy).mean())
        return out

    def _target(self, after: TensorDictBase, alpha: Tensor | float) -> Tensor:
        action, log_prob = sampled(self.actor, after)
        value = self.values(self.target_critics, after, action)
        return F.soft_q_target(*self.next_reward_and_discount(after), value, log_prob + self.log_scale, alpha)
