"""Returns of a collected batch: n steps ahead, and to the end of the episode."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from rlpipe.losses import functional as F


class NStep(TensorDictModuleBase):
    """n-step returns of a batch `[*B, T]`, Sutton and Barto 2018, equation 7.1.

    Returns a copy of the batch. Under `next`, `reward` is the discounted sum of the next n rewards, every other entry
    is that of the last of these steps, and `discount` `[*B, T, 1]` is added: `gamma^n`, or 0 if that step terminated.
    Where an episode or the batch ends first, fewer steps are summed. (TorchRL's MultiStep keeps `terminated` of the
    first step, so a later termination does not cut its bootstrap.)

    Args:
        gamma: discount per step.
        n: number of steps; 1 only adds `discount`.

    Raises:
        ValueError: `gamma` or `n` is out of range.
    """

    def __init__(self, *, gamma: float, n: int) -> None:
        super().__init__()
        if n < 1 or not 0.0 <= gamma <= 1.0:
            raise ValueError(f"n is {n} and gamma {gamma}; allowed are 1 or more, and 0 to 1")
        self.gamma, self.n = gamma, n
        self.in_keys = [("next", "reward"), ("next", "done"), ("next", "terminated")]
        self.out_keys = [("next", "reward"), ("next", "discount")]

    @torch.no_grad()
    def forward(self, batch: TensorDictBase) -> TensorDictBase:
        after = batch.get("next")
        rewards, done = after.get("reward").squeeze(-1), after.get("done").squeeze(-1)
        first = torch.arange(batch.shape[-1], device=rewards.device).expand(batch.shape)
        last, total = first, rewards
        for step in range(1, self.n):
            ahead = (last + 1).clamp_max(batch.shape[-1] - 1)
            goes_on = ~done.gather(-1, last) & (ahead > last)
            total = total + self.gamma**step * rewards.gather(-1, ahead) * goes_on
            last = torch.where(goes_on, ahead, last)
        # a copy, because the input must not change; with one step there is nothing to look up
        after = after.gather(-1, last) if self.n > 1 else after.copy()
        discount = self.gamma ** (last - first + 1) * (~after.get("terminated").squeeze(-1))
        after.set("reward", total.unsqueeze(-1))
        after.set("discount", discount.unsqueeze(-1))
        return batch.copy().set("next", after)


class ReturnToGo(TensorDictModuleBase):
    """Monte Carlo returns of a batch `[*B, T]` of whole consecutive episodes, Sutton and Barto 2018, section 13.3.

    Writes, each `[*B, T, 1]`: `value_target`, the discounted return-to-go; `advantage`, the return minus the critic's
    value; with a critic `state_value`; and `episode`, int64, the number of the step's episode, counted over all rows.
    A truncated episode ends like a terminated one, without a bootstrap. An episode that the batch cuts off counts only
    to the cut.

    Args:
        critic: the baseline; writes `state_value` `[*B, 1]`; ours or TorchRL's `ValueOperator`. `None` for no baseline.
        gamma: discount per step.
    """

    def __init__(self, critic: TensorDictModuleBase | None = None, *, gamma: float) -> None:
        super().__init__()
        self.critic, self.gamma = critic, gamma
        self.in_keys = [("next", "reward"), ("next", "done")]
        self.out_keys = ["value_target", "advantage", "episode"]
        if critic is not None:
            self.in_keys = [*critic.in_keys, *self.in_keys]
            self.out_keys = ["state_value", *self.out_keys]

    @torch.no_grad()
    def forward(self, batch: TensorDictBase) -> TensorDictBase:
        after = batch.get("next")
        reward, done = after.get("reward").squeeze(-1), after.get("done").squeeze(-1)
        target = F.reward_to_go(reward, torch.full_like(reward, self.gamma), done).unsqueeze(-1)
        batch.set("value_target", target)
        batch.set("episode", _episode(done).unsqueeze(-1))
        if self.critic is None:
            return batch.set("advantage", target)
        states = batch.select(*self.critic.in_keys).reshape(-1)
        value = self.critic(states).get("state_value").reshape(target.shape)
        batch.set("state_value", value)
        return batch.set("advantage", target - value)


def _episode(done: Tensor) -> Tensor:
    """Number the episodes in `done` `[*B, T]` over all rows; an episode also ends at the end of a row."""
    ends = done.clone()
    ends[..., -1] = True
    ends = ends.flatten().long()
    return (ends.cumsum(0) - ends).reshape(done.shape)
