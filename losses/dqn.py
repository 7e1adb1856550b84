"""The DQN loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from rlpipe.kinds import Regression
from rlpipe.losses import functional as F
from rlpipe.losses.base.q_network import Bootstrap, QNetworkLoss
from rlpipe.losses.base.terms import read

if TYPE_CHECKING:
    from typing_extensions import Unpack


class DQNLoss(QNetworkLoss):
    """Deep Q-learning, Mnih et al. 2015, with Double DQN (van Hasselt et al. 2016) as an option.

    Reads and returns what a `QNetworkLoss` does.

    Args:
        q_network: writes `action_value` `[*B, A]`; ours or TorchRL's `QValueActor` with categorical actions.
        kind: `"mse"` or `"smooth_l1"`, as PyTorch defines them: no factor 0.5 in `"mse"`.
        bootstrap: `gamma`, `double`, `target_network`, `n_step` and `prioritized`, see `QNetworkLoss`.

    Raises:
        ValueError: `double` without a target network.
    """

    def __init__(
        self, q_network: TensorDictModuleBase, *, kind: Regression = "mse", **bootstrap: Unpack[Bootstrap]
    ) -> None:
        super().__init__(q_network, **bootstrap)
        self.kind = kind

    def bootstrapped(
        self, reward: Tensor, discount: Tensor, written: TensorDictBase, selector: Tensor | None
    ) -> Tensor:
        return F.q_learning_target(reward, discount, read(written, self.tensor_keys.action_value), selector)

    def compared(self, written: TensorDictBase, action: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        value = F.chosen_value(read(written, self.tensor_keys.action_value), action)
        return F.regression(value, target, self.kind), value, target
