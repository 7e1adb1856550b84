"""The QR-DQN loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from rlpipe.losses import functional as F
from rlpipe.losses.base.keys import QRDQNKeys
from rlpipe.losses.base.q_network import Bootstrap, QNetworkLoss
from rlpipe.losses.base.terms import read

if TYPE_CHECKING:
    from typing_extensions import Unpack


class QRDQNLoss(QNetworkLoss):
    """Quantile regression DQN, Dabney et al. 2018 ("Distributional reinforcement learning with quantile regression").

    The return of an action is a distribution, of which the network gives N quantiles; they are regressed on the
    quantiles of the next state's best action, Algorithm 1. Reads and returns what a `QNetworkLoss` does: `loss_td` is
    the mean over samples of `F.quantile_huber`, a sum over quantiles and a mean over target quantiles. `td_error`,
    `q_mean` and `priority` are of means over quantiles, the values by which the policy acts.

    Args:
        q_network: writes `quantiles` `[*B, A, N]` and their mean, `action_value` `[*B, A]`, as a `QuantileActor` does.
        kappa: up to which error the loss is quadratic, in units of return; a small one is plain
            quantile regression, the paper's QR-DQN-0.
        bootstrap: `gamma`, `double`, `target_network`, `n_step` and `prioritized`, see `QNetworkLoss`.

    Raises:
        ValueError: `double` without a target network, or `kappa` not above 0.
    """

    _AcceptedKeys = QRDQNKeys

    def __init__(self, q_network: TensorDictModuleBase, *, kappa: float = 1.0, **bootstrap: Unpack[Bootstrap]) -> None:
        super().__init__(q_network, **bootstrap)
        if not kappa > 0:
            raise ValueError(f"kappa is {kappa}; allowed is more than 0")
        self.kappa = kappa

    def bootstrapped(
        self, reward: Tensor, discount: Tensor, written: TensorDictBase, selector: Tensor | None
    ) -> Tensor:
        chooser = read(written, self.tensor_keys.action_value) if selector is None else selector
        return F.quantile_target(reward, discount, read(written, self.tensor_keys.quantiles), chooser)

    def compared(self, written: TensorDictBase, action: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        quantiles = F.chosen_quantiles(read(written, self.tensor_keys.quantiles), action)
        return F.quantile_huber(quantiles, target, self.kappa), quantiles.mean(-1), target.mean(-1)
