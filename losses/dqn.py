"""The DQN loss."""

from __future__ import annotations

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torchrl.objectives import LossModule

from rlpipe.losses import functional as F
from rlpipe.losses.target import frozen_copy
from rlpipe.losses.terms import column, discrete_action, nested, observed, read, scalar
from rlpipe.modules import JointChoices


class DQNLoss(LossModule):
    """Deep Q-learning, Mnih et al. 2015, with Double DQN (van Hasselt et al. 2016) as an option.

    Reads `action` `[*B]`, the Q network's `in_keys`, and under `next` the same `in_keys`, `reward` and `terminated`
    `[*B, 1]`; with `n_step`, `discount` `[*B, 1]` instead of `terminated`, as `NStep` writes it. Truncation does not
    cut the bootstrap. The actions of a `QActor` over several choices are `[*B, *shape]`. Does not change its input.

    Returns `loss_td` (a scalar), and detached: `td_error`, the mean absolute error, and `q_mean`. With `prioritized`,
    reads `priority_weight` `[*B]` too, which multiplies each sample's loss, and returns `priority` `[*B]`: the absolute
    error of each sample, for the replay buffer (Schaul et al. 2016, Algorithm 1).

    Args:
        q_network: writes `action_value` `[*B, A]`; ours or TorchRL's `QValueActor` with categorical actions.
        gamma: discount per step.
        kind: `"mse"` or `"smooth_l1"`, as PyTorch defines them: no factor 0.5 in `"mse"`.
        double: choose the next action with the online network.
        target_network: keep a frozen copy, `self.target_network`, for the bootstrap; follow it with `TargetUpdate`.
            Without it the online network bootstraps itself.
        n_step: read the discount of the bootstrap from the batch; `gamma` is not used.
        prioritized: for minibatches drawn by priority, see above and `off_policy`.

    Raises:
        ValueError: `double` without a target network.
    """

    def __init__(
        self,
        q_network: TensorDictModuleBase,
        *,
        gamma: float = 0.99,
        kind: F.Regression = "mse",
        double: bool = False,
        target_network: bool = True,
        n_step: bool = False,
        prioritized: bool = False,
    ) -> None:
        super().__init__()
        if double and not target_network:
            raise ValueError("double=True needs target_network=True: the target network evaluates the chosen action")
        self.q_network = q_network
        self.target_network = frozen_copy(q_network) if target_network else None
        self.gamma, self.kind, self.double, self.n_step = gamma, kind, double, n_step
        self.prioritized = prioritized
        keys = list(q_network.in_keys)
        self.in_keys = ["action", *keys, *nested([*keys, "reward", "discount" if n_step else "terminated"])]
        self.out_keys = ["loss_td", "td_error", "q_mean"]
        if prioritized:
            self.in_keys, self.out_keys = [*self.in_keys, "priority_weight"], [*self.out_keys, "priority"]

    def forward(self, batch: TensorDictBase) -> TensorDict:
        action_value = self._action_value(self.q_network, batch)
        with torch.no_grad():
            target = self._target(read(batch, "next"))
        action = self._index(batch)
        chosen = F.chosen_value(action_value, action)
        loss = F.regression(chosen, target, self.kind)
        error = F.td_error(action_value.detach(), action, target).abs()
        weighted = loss * scalar(batch, "priority_weight") if self.prioritized else loss
        out = TensorDict({"loss_td": weighted.mean(), "td_error": error.mean(), "q_mean": chosen.detach().mean()})
        return out.set("priority", error) if self.prioritized else out

    def _target(self, after: TensorDictBase) -> torch.Tensor:
        network = self.target_network if self.target_network is not None else self.q_network
        selector = self._action_value(self.q_network, after) if self.double else None
        discount = column(after, "discount") if self.n_step else self.gamma * (~column(after, "terminated"))
        return F.q_learning_target(column(after, "reward"), discount, self._action_value(network, after), selector)

    def _index(self, batch: TensorDictBase) -> torch.Tensor:
        """The number of each action, `[*B]`."""
        joint: JointChoices | None = getattr(self.q_network, "joint", None)
        if joint is None:
            return discrete_action(batch)
        action = read(batch, "action")
        if action.dtype != joint.dtype or action.shape != (*batch.batch_size, *joint.shape):
            raise ValueError(
                f"key 'action' has dtype {action.dtype} and shape {list(action.shape)}, expected {joint.dtype} and "
                f"{[*batch.batch_size, *joint.shape]}"
            )
        return joint.index(action)

    @staticmethod
    def _action_value(network: TensorDictModuleBase, batch: TensorDictBase) -> torch.Tensor:
        return read(network(observed(batch, network)), "action_value")
