"""The options of QR-DQN."""

from __future__ import annotations

from dataclasses import dataclass

from rlpipe.pipelines.config.fields import LARGEST, number
from rlpipe.pipelines.config.q_network import QNetworkConfig


@dataclass(frozen=True)
class Config(QNetworkConfig):
    """QR-DQN, tuned on CartPole-v1, Acrobot-v1 and LunarLander-v3."""

    max_grad_norm: float | None = None
    quantiles: int = number(10, at_least=1, at_most=1_000)
    """Quantiles of the return of each action; 200 in the paper."""
    kappa: float = number(1.0, at_least=1e-6, at_most=LARGEST)
    """Up to which error the loss is quadratic, in units of return; tiny: plain quantile regression."""
