"""What losses of Q networks have in common: the bootstrap, and what they read and return."""

from __future__ import annotations

from typing import Any, TypedDict

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.objectives import ValueEstimators

from rlpipe.losses.base.keys import DQNKeys, Keyed
from rlpipe.losses.base.target import HasTargets, frozen_copy
from rlpipe.losses.base.terms import column, discrete_action, nested, observed, part_with, read, scalar


class Bootstrap(TypedDict, total=False):
    """The options of a `QNetworkLoss`, which each of its kinds takes."""

    gamma: float
    double: bool
    target_network: bool
    n_step: bool
    prioritized: bool


class QNetworkLoss(Keyed, HasTargets):
    """A loss of a Q network, which bootstraps from its target network.

    Reads `action` `[*B]`, the Q network's `in_keys`, and under `next` the same `in_keys`, `reward` and `terminated`
    `[*B, 1]`; with `n_step`, `discount` `[*B, 1]` instead of `terminated`, as `NStep` writes it. Truncation does not
    cut the bootstrap. The actions of a `QActor` over several choices are `[*B, *shape]`. Does not change its input.

    Returns `loss_td` (a scalar), and detached: `td_error`, the mean absolute error, and `q_mean`. With `prioritized`,
    reads `priority_weight` `[*B]` too, which multiplies each sample's loss, and returns `priority` `[*B]`: the absolute
    error of each sample, for the replay buffer (Schaul et al. 2016, Algorithm 1). Keys are changed by `set_keys`.

    A subclass defines `bootstrapped` and `compared`.

    Args:
        q_network: writes `action_value` `[*B, A]`, and what else the subclass reads.
        gamma: discount per step.
        double: choose the next action with the online network.
        target_network: keep a frozen copy, `self.target_network`, for the bootstrap; move it by `TargetUpdate`,
            or TorchRL's `SoftUpdate` or `HardUpdate`. Without it the online network bootstraps itself.
        n_step: read the discount of the bootstrap from the batch; `gamma` is not used.
        prioritized: for minibatches drawn by priority, see above and `off_policy`.

    Raises:
        ValueError: `double` without a target network.
    """

    _AcceptedKeys: type = DQNKeys
    sources = {"target_network": "q_network"}
    default_value_estimator = ValueEstimators.TD0

    def __init__(
        self,
        q_network: TensorDictModuleBase,
        *,
        gamma: float = 0.99,
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
        self.gamma, self.double, self.n_step = gamma, double, n_step
        self.prioritized = prioritized
        self.set_in_keys()

    def set_in_keys(self) -> None:
        keys, observed = self.tensor_keys, list(self.q_network.in_keys)
        bootstrap = keys.discount if self.n_step else keys.terminated
        self.in_keys = [keys.action, *observed, *nested([*observed, keys.reward, bootstrap])]
        self.out_keys = ["loss_td", "td_error", "q_mean"]
        if self.prioritized:
            self.in_keys, self.out_keys = [*self.in_keys, keys.priority_weight], [*self.out_keys, keys.priority]

    def bootstrapped(
        self, reward: Tensor, discount: Tensor, written: TensorDictBase, selector: Tensor | None
    ) -> Tensor:
        """The target, from what the target network wrote for the next state.

        Args:
            reward: `[*B]`.
            discount: `[*B]`.
            written: by the target network, or the online one if there is none.
            selector: `[*B, A]`, with `double` the online network's action values in the next state.
        """
        raise NotImplementedError

    def compared(self, written: TensorDictBase, action: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The loss, the value of the action, and that of the target, each `[*B]`.

        Args:
            written: by the online network for the state.
            action: its number, `[*B]`.
            target: as `bootstrapped` returned it.
        """
        raise NotImplementedError

    def forward(self, batch: TensorDictBase) -> TensorDict:
        written = self.q_network(observed(batch, self.q_network))
        with torch.no_grad():
            target = self._target(read(batch, "next"))
        joint = getattr(part_with(self.q_network, "joint"), "joint", None)
        action = discrete_action(batch, self.tensor_keys.action, joint)
        loss, value, target_value = self.compared(written, action, target)
        error = (target_value - value.detach()).abs()
        weighted = loss * scalar(batch, self.tensor_keys.priority_weight) if self.prioritized else loss
        out = TensorDict({"loss_td": weighted.mean(), "td_error": error.mean(), "q_mean": value.detach().mean()})
        return out.set(self.tensor_keys.priority, error) if self.prioritized else out

    def _target(self, after: TensorDictBase) -> Tensor:
        keys, network = self.tensor_keys, self.target_network if self.target_network is not None else self.q_network
        online = self.q_network(observed(after, self.q_network)) if self.double else None
        selector = None if online is None else read(online, keys.action_value)
        discount = column(after, keys.discount) if self.n_step else self.gamma * (~column(after, keys.terminated))
        return self.bootstrapped(column(after, keys.reward), discount, network(observed(after, network)), selector)

    def make_value_estimator(self, value_type: ValueEstimators | str | None = None, **hyperparams: Any) -> QNetworkLoss:
        """Set `gamma`, as in TorchRL; the target is that of TD0.

        Raises:
            ValueError: another estimator or hyperparameter, or a loss that reads its discount from the batch.
        """
        name = str(getattr(value_type, "name", value_type or "TD0")).upper()
        if name != "TD0" or set(hyperparams) - {"gamma"}:
            raise ValueError(
                f"{type(self).__name__} looks one step ahead, by TD0 with gamma; got "
                f"{', '.join([name, *hyperparams])}; NStep sums several rewards"
            )
        if self.n_step:
            raise ValueError("with n_step=True the discount is read from the batch; give gamma to NStep")
        self.gamma, self.value_type = hyperparams.get("gamma", self.gamma), ValueEstimators.TD0
        return self
