"""What losses of an actor over critics that read its action share: SAC and TD3."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn

from rlpipe.losses import functional as F
from rlpipe.losses.base.keys import ActionValueKeys, Keyed
from rlpipe.losses.base.target import HasTargets, frozen_copy
from rlpipe.losses.base.terms import column, distribution_of, nested, observed, read, valued


class ActionValueLoss(Keyed, HasTargets):
    """A loss that holds an actor, critics that read its action, and the critics' frozen copies, `target_critics`.

    Args:
        actor: of any kind.
        critics: each writes `state_action_value` `[*B, 1]`.
        gamma: discount factor.
        n_step: read the discount of the bootstrap from the batch; `gamma` is not used.

    Raises:
        ValueError: the critics are no `nn.ModuleList`, or there is none.
    """

    _AcceptedKeys = ActionValueKeys
    actor: TensorDictModuleBase
    critics: nn.ModuleList

    def __init__(self, actor: TensorDictModuleBase, critics: nn.ModuleList, gamma: float, *, n_step: bool) -> None:
        super().__init__()
        if not isinstance(critics, nn.ModuleList) or not critics:
            given = "an empty ModuleList" if isinstance(critics, nn.ModuleList) else f"a {type(critics).__name__}"
            raise ValueError(f"{type(self).__name__} was given {given}; expected nn.ModuleList([critic, ...])")
        self.actor, self.critics, self.target_critics = actor, critics, frozen_copy(critics)
        self.gamma, self.n_step = gamma, n_step

    def set_in_keys(self) -> None:
        keys = self.tensor_keys
        readers: list[Any] = [self.actor, *self.critics]
        seen = [key for each in readers for key in each.in_keys if key != keys.action]
        states, bootstrap = list(dict.fromkeys(seen)), keys.discount if self.n_step else keys.terminated
        self.in_keys = [keys.action, *states, *nested([*states, keys.reward, bootstrap])]
        self.out_keys = ["loss_td", "td_error", "q_mean"]

    def values(self, critics: nn.ModuleList, states: TensorDictBase, action: Tensor) -> Tensor:
        """`action_values` under this loss's keys."""
        return action_values(critics, states, action, self.tensor_keys)

    def next_reward_and_discount(self, after: TensorDictBase) -> tuple[Tensor, Tensor]:
        """What a target is made of, `[*B]` each; `discount` is 0 where the next state is final."""
        keys = self.tensor_keys
        discount = column(after, keys.discount) if self.n_step else self.gamma * (~column(after, keys.terminated))
        return column(after, keys.reward), discount

    def critic_terms(self, batch: TensorDictBase, target: Tensor) -> TensorDict:
        """`loss_td`, the sum over the critics of their mean squared errors, and its diagnostics, detached."""
        value = self.values(self.critics, batch, read(batch, self.tensor_keys.action))
        goal = target.unsqueeze(-1).expand_as(value)
        return TensorDict(
            loss_td=F.regression(value, goal).sum(-1).mean(),
            td_error=(goal - value.detach()).abs().mean(),
            q_mean=value.detach().mean(),
        )


def action_values(
    critics: Iterable[TensorDictModuleBase], states: TensorDictBase, action: Tensor, keys: ActionValueKeys
) -> Tensor:
    """`Q_i(s, a)` of each critic, `[*B, C]`.

    Args:
        critics: C modules that read the action and write `state_action_value` `[*B, 1]`.
        states: has the critics' other `in_keys`.
        action: `[*B, *D]`; gradients pass through it.
        keys: the names of both.

    Raises:
        KeyError: an entry is missing, or a critic does not write the value.
        ValueError: a value has another shape.
    """
    columns = []
    for critic in critics:
        given = states.select(*critic.in_keys, strict=False).set(keys.action, action)
        columns.append(column(valued(critic, given, keys.state_action_value), keys.state_action_value))
    return torch.stack(columns, -1)


def sampled(actor: TensorDictModuleBase, states: TensorDictBase) -> tuple[Tensor, Tensor]:
    """A reparameterised action `[*B, *D]` of an actor, and its log-probability `[*B]`, with gradients to the actor.

    Drawn from PyTorch's global generator.

    Raises:
        TypeError: the actor has no `get_dist`, or its distribution no reparameterised samples.
    """
    distribution = distribution_of(actor, observed(states, actor))
    if not distribution.has_rsample:
        raise TypeError(f"{type(distribution).__name__} has no reparameterised samples; a GaussianActor's has")
    both = getattr(distribution, "rsample_and_log_prob", None)
    if both is not None:
        action, log_prob = both()
        return action, log_prob
    action = distribution.rsample()
    return action, distribution.log_prob(action)
