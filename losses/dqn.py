"""The DQN loss."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torchrl.objectives import ValueEstimators

from rlpipe.losses import functional as F
from rlpipe.losses.keys import DQNKeys, Keyed
from rlpipe.losses.target import HasTargets, frozen_copy
from rlpipe.losses.terms import column, discrete_action, nested, observed, part_with, read, scalar


class DQNLoss(Keyed, HasTargets):
    """Deep Q-learning, Mnih et al. 2015, with Double DQN (van Hasselt et al. 2016) as an option.

    Reads `action` `[*B]`, the Q network's `in_keys`, and under `next` the same `in_keys`, `reward` and `terminated`
    `[*B, 1]`; with `n_step`, `discount` `[*B, 1]` instead of `terminated`, as `NStep` writes it. Truncation does not
    cut the bootstrap. The actions of a `QActor` over several choices are `[*B, *shape]`. Does not change its input.

    Returns `loss_td` (a scalar), and detached: `td_error`, the mean absolute error, and `q_mean`. With `prioritized`,
    reads `priority_weight` `[*B]` too, which multiplies each sample's loss, and returns `priority` `[*B]`: the absolute
    error of each sample, for the replay buffer (Schaul et al. 2016, Algorithm 1). Keys are changed by `set_keys`.

    Args:
        q_network: writes `action_value` `[*B, A]`; ours or TorchRL's `QValueActor` with categorical actions.
        gamma: discount per step.
        kind: `"mse"` or `"smooth_l1"`, as PyTorch defines them: no factor 0.5 in `"mse"`.
        double: choose the next action with the online network.
        target_network: keep a frozen copy, `self.target_network`, for the bootstrap; move it by `TargetUpdate`,
            or TorchRL's `SoftUpdate` or `HardUpdate`. Without it the online network bootstraps itself.
        n_step: read the discount of the bootstrap from the batch; `gamma` is not used.
        prioritized: for minibatches drawn by priority, see above and `off_policy`.

    Raises:
        ValueError: `double` without a target network.
    """

    _AcceptedKeys = DQNKeys
    sources = {"target_network": "q_network"}
    default_value_estimator = ValueEstimators.TD0

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
        self.set_in_keys()

    def set_in_keys(self) -> None:
        keys, observed = self.tensor_keys, list(self.q_network.in_keys)
        bootstrap = keys.discount if self.n_step else keys.terminated
        self.in_keys = [keys.action, *observed, *nested([*observed, keys.reward, bootstrap])]
        self.out_keys = ["loss_td", "td_error", "q_mean"]
        if self.prioritized:
            self.in_keys, self.out_keys = [*self.in_keys, keys.priority_weight], [*self.out_keys, keys.priority]

    def forward(self, batch: TensorDictBase) -> TensorDict:
        action_value = self._action_value(self.q_network, batch)
        with torch.no_grad():
            target = self._target(read(batch, "next"))
        joint = getattr(part_with(self.q_network, "joint"), "joint", None)
        action = discrete_action(batch, self.tensor_keys.action, joint)
        chosen = F.chosen_value(action_value, action)
        loss = F.regression(chosen, target, self.kind)
        error = F.td_error(action_value.detach(), action, target).abs()
        weighted = loss * scalar(batch, self.tensor_keys.priority_weight) if self.prioritized else loss
        out = TensorDict({"loss_td": weighted.mean(), "td_error": error.mean(), "q_mean": chosen.detach().mean()})
        return out.set(self.tensor_keys.priority, error) if self.prioritized else out

    def _target(self, after: TensorDictBase) -> torch.Tensor:
        keys, network = self.tensor_keys, self.target_network if self.target_network is not None else self.q_network
        selector = self._action_value(self.q_network, after) if self.double else None
        discount = column(after, keys.discount) if self.n_step else self.gamma * (~column(after, keys.terminated))
        return F.q_learning_target(column(after, keys.reward), discount, self._action_value(network, after), selector)

    def _action_value(self, network: TensorDictModuleBase, batch: TensorDictBase) -> torch.Tensor:
        return read(network(observed(batch, network)), self.tensor_keys.action_value)

    def make_value_estimator(self, value_type: ValueEstimators | str | None = None, **hyperparams: Any) -> DQNLoss:
        """Set `gamma`, as in TorchRL; the target is that of TD0.

        Raises:
            ValueError: another estimator or hyperparameter, or a loss that reads its discount from the batch.
        """
        name = str(getattr(value_type, "name", value_type or "TD0")).upper()
        if name != "TD0" or set(hyperparams) - {"gamma"}:
            raise ValueError(
                f"DQNLoss looks one step ahead, by TD0 with gamma; got {', '.join([name, *hyperparams])}; NStep sums "
                "several rewards"
            )
        if self.n_step:
            raise ValueError("with n_step=True the discount is read from the batch; give gamma to NStep")
        self.gamma, self.value_type = hyperparams.get("gamma", self.gamma), ValueEstimators.TD0
        return self
