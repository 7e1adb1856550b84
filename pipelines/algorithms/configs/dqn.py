"""The options of DQN."""

from __future__ import annotations

from dataclasses import dataclass

from rlpipe.kinds import Regression
from rlpipe.pipelines.config.q_network import QNetworkConfig


@dataclass(frozen=True)
class Config(QNetworkConfig):
    """DQN, tuned to solve CartPole-v1 fast."""

    kind: Regression = "smooth_l1"
    """Loss between the action value and its target."""
