"""Advantages of a collected batch."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from rlpipe.losses import functional as F
from rlpipe.losses.base.keys import AdvantageKeys, Keyed
from rlpipe.losses.base.terms import nested, valued


class GAE(Keyed):
    """Generalized advantage estimation over a batch `[*B, T]` of consecutive steps, Schulman et al. 2016.

    Writes `state_value`, `advantage` and `value_target` (advantage + value), each `[*B, T, 1]`. The critic runs once,
    on all states and on the next states that are not among them: the last ones of truncated episodes and of the batch.
    The value of a terminated state is never used. Keys are changed by `set_keys`.

    Args:
        critic: writes `state_value` `[*B, 1]`; ours or TorchRL's `ValueOperator`.
        gamma: discount per step.
        lmbda: the paper's lambda.
    """

    _AcceptedKeys = AdvantageKeys

    def __init__(self, critic: TensorDictModuleBase, *, gamma: float = 0.99, lmbda: float = 0.95) -> None:
        super().__init__()
        self.critic, self.gamma, self.lmbda = critic, gamma, lmbda
        self.set_in_keys()

    def set_in_keys(self) -> None:
        keys = self.tensor_keys
        after = [*self.critic.in_keys, keys.reward, keys.done, keys.terminated]
        self.in_keys = [*self.critic.in_keys, *nested(after)]
        self.out_keys = [keys.value, keys.advantage, keys.value_target]

    @torch.no_grad()
    def forward(self, batch: TensorDictBase) -> TensorDictBase:
        for key in self.in_keys:
            if batch.get(key, None) is None:
                raise KeyError(f"GAE reads key {key!r}, which the batch does not have")
        keys, after = self.tensor_keys, batch.get("next")
        if after.get(keys.reward).shape != (*batch.batch_size, 1):
            raise ValueError(
                f"key {keys.reward!r} has shape {list(after.get(keys.reward).shape)}, expected "
                f"{[*batch.batch_size, 1]} in a batch of shape {list(batch.batch_size)}"
            )
        reward, done, terminated = (after.get(key).squeeze(-1) for key in (keys.reward, keys.done, keys.terminated))
        value, next_value = self._values(batch, done, terminated)
        discount = self.gamma * (~terminated)
        advantage = F.gae(reward, value, next_value, discount, done, self.lmbda)
        batch.set(keys.value, value.unsqueeze(-1))
        batch.set(keys.advantage, advantage.unsqueeze(-1))
        return batch.set(keys.value_target, (advantage + value).unsqueeze(-1))

    def _values(self, batch: TensorDictBase, done: Tensor, terminated: Tensor) -> tuple[Tensor, Tensor]:
        outside = done.clone()
        outside[..., -1] = True
        outside &= ~terminated
        keys = self.critic.in_keys
        states = batch.select(*keys).reshape(-1)
        # once, because it waits for the GPU
        where = outside.nonzero(as_tuple=True)
        others = batch.get("next").select(*keys)[where]
        key = self.tensor_keys.value
        values = valued(self.critic, torch.cat([states, others]), key).get(key).squeeze(-1)
        value = values[: len(states)].reshape(batch.shape)
        next_value = value.roll(-1, -1)
        next_value[where] = values[len(states) :]
        return value, next_value
