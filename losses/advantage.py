"""Advantages of a collected batch."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from rlpipe.losses import functional as F


class GAE(TensorDictModuleBase):
    """Generalized advantage estimation over a batch `[*B, T]` of consecutive steps, Schulman et al. 2016.

    Writes `state_value`, `advantage` and `value_target` (advantage + value), each `[*B, T, 1]`. The critic runs once,
    on all states and on the next states that are not among them: the last ones of truncated episodes and of the batch.
    The value of a terminated state is never used.

    Args:
        critic: writes `state_value` `[*B, 1]`; ours or TorchRL's `ValueOperator`.
        gamma: discount per step.
        lmbda: the paper's lambda.
    """

    def __init__(self, critic: TensorDictModuleBase, *, gamma: float = 0.99, lmbda: float = 0.95) -> None:
        super().__init__()
        self.critic, self.gamma, self.lmbda = critic, gamma, lmbda
        self.in_keys = [*critic.in_keys, ("next", "reward"), ("next", "done"), ("next", "terminated")]
        self.out_keys = ["state_value", "advantage", "value_target"]

    @torch.no_grad()
    def forward(self, batch: TensorDictBase) -> TensorDictBase:
        for key in self.in_keys:
            if batch.get(key, None) is None:
                raise KeyError(f"GAE reads key {key!r}, which the batch does not have")
        after = batch.get("next")
        if after.get("reward").shape != (*batch.batch_size, 1):
            raise ValueError(
                f"key 'reward' has shape {list(after.get('reward').shape)}, expected {[*batch.batch_size, 1]} in a "
                f"batch of shape {list(batch.batch_size)}"
            )
        reward, done, terminated = (after.get(key).squeeze(-1) for key in ("reward", "done", "terminated"))
        value, next_value = self._values(batch, done, terminated)
        discount = self.gamma * (~terminated)
        advantage = F.gae(reward, value, next_value, discount, done, self.lmbda)
        batch.set("state_value", value.unsqueeze(-1))
        batch.set("advantage", advantage.unsqueeze(-1))
        return batch.set("value_target", (advantage + value).unsqueeze(-1))

    def _values(self, batch: TensorDictBase, done: Tensor, terminated: Tensor) -> tuple[Tensor, Tensor]:
        outside = done.clone()
        outside[..., -1] = True
        outside &= ~terminated
        keys = self.critic.in_keys
        states = batch.select(*keys).reshape(-1)
        # once, because it waits for the GPU
        where = outside.nonzero(as_tuple=True)
        others = batch.get("next").select(*keys)[where]
        values = self.critic(torch.cat([states, others])).get("state_value").squeeze(-1)
        value = values[: len(states)].reshape(batch.shape)
        next_value = value.roll(-1, -1)
        next_value[where] = values[len(states) :]
        return value, next_value
