"""Returns of a collected batch: n steps ahead, and to the end of the episode."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from rlpipe.losses import functional as F
from rlpipe.losses.base.keys import Keyed, NStepKeys, ReturnKeys
from rlpipe.losses.base.terms import nested, valued


class NStep(Keyed):
    """n-step returns of a batch `[*B, T]`, Sutton and Barto 2018, equation 7.1.

    Returns a copy of the batch. Under `next`, `reward` is the discounted sum of the next n rewards, every other entry
    is that of the last of these steps, and `discount` `[*B, T, 1]` is added: `gamma^n`, or 0 if that step terminated.
    Where an episode or the batch ends first, fewer steps are summed. (TorchRL's MultiStep keeps `terminated` of the
    first step, so a later termination does not cut its bootstrap.) Keys are changed by `set_keys`.

    Args:
        gamma: discount per step.
        n: number of steps; 1 only adds `discount`.

    Raises:
        ValueError: `gamma` or `n` is out of range.
    """

    _AcceptedKeys = NStepKeys

    def __init__(self, *, gamma: float, n: int) -> None:
        super().__init__()
        if n < 1 or not 0.0 <= gamma <= 1.0:
            raise ValueError(f"n is {n} and gamma {gamma}; allowed are 1 or more, and 0 to 1")
        self.gamma, self.n = gamma, n
        self.set_in_keys()

    def set_in_keys(self) -> None:
        keys = self.tensor_keys
        self.in_keys = nested([keys.reward, keys.done, keys.terminated])
        self.out_keys = nested([keys.reward, keys.discount])

    @torch.no_grad()
    def forward(self, batch: TensorDictBase) -> TensorDictBase:
        keys, after = self.tensor_keys, batch.get("next")
        rewards, done = after.get(keys.reward).squeeze(-1), after.get(keys.done).squeeze(-1)
        first = torch.arange(batch.shape[-1], device=rewards.device).expand(batch.shape)
        last, total = first, rewards
        for step in range(1, self.n):
            ahead = (last + 1).clamp_max(batch.shape[-1] - 1)
            goes_on = ~done.gather(-1, last) & (ahead > last)
            total = total + self.gamma**step * rewards.gather(-1, ahead) * goes_on
            last = torch.where(goes_on, ahead, last)
        # a copy, because the input must not change; with one step there is nothing to look up
        after = after.gather(-1, last) if self.n > 1 else after.copy()
        discount = self.gamma ** (last - first + 1) * (~after.get(keys.terminated).squeeze(-1))
        after.set(keys.reward, total.unsqueeze(-1))
        after.set(keys.discount, discount.unsqueeze(-1))
        return batch.copy().set("next", after)


class ReturnToGo(Keyed):
    """Monte Carlo returns of a batch `[*B, T]` of whole consecutive episodes, Sutton and Barto 2018, section 13.3.

    Writes, each `[*B, T, 1]`: `value_target`, the discounted return-to-go; `advantage`, the return minus the critic's
    value; with a critic `state_value`; and `episode`, int64, the number of the step's episode, counted over all rows.
    A truncated episode ends like a terminated one, without a bootstrap. An episode that the batch cuts off counts only
    to the cut. Keys are changed by `set_keys`.

    Args:
        critic: the baseline; writes `state_value` `[*B, 1]`; ours or TorchRL's `ValueOperator`. `None` for no baseline.
        gamma: discount per step.
    """

    _AcceptedKeys = ReturnKeys

    def __init__(self, critic: TensorDictModuleBase | None = None, *, gamma: float) -> None:
        super().__init__()
        self.critic, self.gamma = critic, gamma
        self.set_in_keys()

    def set_in_keys(self) -> None:
        keys = self.tensor_keys
        self.in_keys = nested([keys.reward, keys.done])
        self.out_keys = [keys.value_target, keys.advantage, keys.episode]
        if self.critic is not None:
            self.in_keys, self.out_keys = [*self.critic.in_keys, *self.in_keys], [keys.value, *self.out_keys]

    @torch.no_grad()
    def forward(self, batch: TensorDictBase) -> TensorDictBase:
        keys, after = self.tensor_keys, batch.get("next")
        reward, done = after.get(keys.reward).squeeze(-1), after.get(keys.done).squeeze(-1)
        target = F.reward_to_go(reward, torch.full_like(reward, self.gamma), done).unsqueeze(-1)
        batch.set(keys.value_target, target)
        batch.set(keys.episode, _episode(done).unsqueeze(-1))
        if self.critic is None:
            return batch.set(keys.advantage, target)
        states = batch.select(*self.critic.in_keys).reshape(-1)
        value = valued(self.critic, states, keys.value).get(keys.value).reshape(target.shape)
        batch.set(keys.value, value)
        return batch.set(keys.advantage, target - value)


def _episode(done: Tensor) -> Tensor:
    """Number the episodes in `done` `[*B, T]` over all rows; an episode also ends at the end of a row."""
    ends = done.clone()
    ends[..., -1] = True
    ends = ends.flatten().long()
    return (ends.cumsum(0) - ends).reshape(done.shape)
