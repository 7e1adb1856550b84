"""n-step returns of a collected batch."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase


class NStep(TensorDictModuleBase):
    """Let each step of a batch `[*B, T]` look n steps ahead, Sutton and Barto 2018, equation 7.1.

    Under `next`, in a copy of the batch: `reward` becomes the discounted sum of the next n rewards, every other entry
    that of the last of these steps, and `discount` `[*B, T, 1]` is added, `gamma^n`, or 0 if that step terminated.
    Fewer than n steps are summed where an episode or the batch ends first. (TorchRL's MultiStep leaves `terminated`
    that of the first step, so a termination further on does not cut its bootstrap.)

    Args:
        gamma: discount per step.
        n: how many steps; 1 only adds `discount`.
    """

    def __init__(self, *, gamma: float, n: int) -> None:
        super().__init__()
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
        after = after.gather(-1, last)
        discount = self.gamma ** (last - first + 1) * (~after.get("terminated").squeeze(-1))
        after.set("reward", total.unsqueeze(-1))
        after.set("discount", discount.unsqueeze(-1))
        return batch.copy().set("next", after)
