"""The two losses of TD3."""

from __future__ import annotations

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn
from torchrl.objectives import LossModule

from rlpipe.losses import functional as F
from rlpipe.losses.base.action_values import ActionValueLoss, action_values
from rlpipe.losses.base.keys import ActionValueKeys, Keyed
from rlpipe.losses.base.target import frozen, frozen_copy
from rlpipe.losses.base.terms import observed, part_with, read
from rlpipe.modules.actors import half_ranges


class TD3CriticLoss(ActionValueLoss):
    """The critics' loss of TD3.

    Fujimoto et al. 2018, "Addressing Function Approximation Error in Actor-Critic Methods" (arXiv:1802.09477),
    Algorithm 1.

    Reads `action` `[*B, *D]`, the `in_keys` of actor and critics, and under `next` the same, `reward` and `terminated`
    `[*B, 1]`; with `n_step`, `discount` `[*B, 1]` instead of `terminated`, as `NStep` writes it. Truncation does not
    cut the bootstrap. Does not change its input. Noise is drawn from PyTorch's global generator.

    Returns `loss_td` (the sum over the critics of their mean squared errors), and detached: `td_error`, the mean
    absolute error, and `q_mean`. Keys are changed by `set_keys`.

    Args:
        actor: writes `action`, such as a `DeterministicActor`. Its frozen copy, `target_actor`, acts in the next state.
        critics: usually two that began differently, such as `ActionValueCritic`s; each writes `state_action_value`
            `[*B, 1]`. The smallest value counts.
        gamma: discount factor.
        noise: standard deviation of the target action's noise, in units of half the action's range; in a dimension
            without two finite bounds, in the action's own units.
        noise_clip: largest magnitude of that noise, in the same units.
        bounds: lowest and highest action, `[*D]` each; by default those of a `DeterministicActor`.
        n_step: read the discount of the bootstrap from the batch; `gamma` is not used.

    Raises:
        ValueError: the actor has no bounds, and none are given.
    """

    low: Tensor
    high: Tensor
    unit: Tensor

    def __init__(
        self,
        actor: TensorDictModuleBase,
        critics: nn.ModuleList,
        *,
        gamma: float = 0.99,
        noise: float = 0.2,
        noise_clip: float = 0.5,
        bounds: tuple[Tensor, Tensor] | None = None,
        n_step: bool = False,
    ) -> None:
        super().__init__(actor, critics, gamma, n_step=n_step)
        self.target_actor, self.noise, self.noise_clip = frozen_copy(actor), noise, noise_clip
        low, high = _bounds_of(actor) if bounds is None else bounds
        for name, value in (("low", low), ("high", high), ("unit", half_ranges(low, high))):
            self.register_buffer(name, value.detach().clone(), persistent=False)
        self.set_in_keys()

    def forward(self, batch: TensorDictBase) -> TensorDict:
        with torch.no_grad():
            target = self._target(read(batch, "next"))
        return self.critic_terms(batch, target)

    def _target(self, after: TensorDictBase) -> Tensor:
        action = read(self.target_actor(observed(after, self.target_actor)), self.tensor_keys.action)
        noise = self.noise * self.unit * torch.randn_like(action)
        action = F.smoothed_action(action, noise, self.noise_clip * self.unit, self.low, self.high)
        value = self.values(self.target_critics, after, action)
        return F.clipped_double_q_target(*self.next_reward_and_discount(after), value)


class TD3ActorLoss(Keyed, LossModule):
    """The actor's loss of TD3, and of DDPG (Lillicrap et al. 2016, equation 6): `-Q(s, pi(s))`.

    Reads the `in_keys` of actor and critic. Returns `loss_policy`, which gives the critic no gradient. Keys are changed
    by `set_keys`.

    Args:
        actor: writes `action`, with a gradient, such as a `DeterministicActor`.
        critic: the first of the critics.
    """

    _AcceptedKeys = ActionValueKeys
    functional = False

    def __init__(self, actor: TensorDictModuleBase, critic: TensorDictModuleBase) -> None:
        super().__init__()
        self.actor, self.critic = actor, critic
        self.set_in_keys()

    def set_in_keys(self) -> None:
        states = [*self.actor.in_keys, *(key for key in self.critic.in_keys if key != self.tensor_keys.action)]
        self.in_keys, self.out_keys = list(dict.fromkeys(states)), ["loss_policy"]

    def forward(self, batch: TensorDictBase) -> TensorDict:
        action = read(self.actor(observed(batch, self.actor)), self.tensor_keys.action)
        with frozen(self.critic):
            value = action_values([self.critic], batch, action, self.tensor_keys)
        return TensorDict(loss_policy=-value.mean())


def _bounds_of(actor: TensorDictModuleBase) -> tuple[Tensor, Tensor]:
    part = part_with(actor, "low")
    low, high = (getattr(part, name, None) for name in ("low", "high"))
    if not isinstance(low, Tensor) or not isinstance(high, Tensor):
        raise ValueError(
            f"the actor is a {type(actor).__name__}, which does not tell the bounds of actions; give bounds=(low, high)"
        )
    return low, high
