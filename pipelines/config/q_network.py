"""What the Configs of DQN and QR-DQN share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from rlpipe.errors import ConfigError
from rlpipe.kinds import Activation, Initialization
from rlpipe.pipelines.config.fields import LARGEST, MANY, number
from rlpipe.pipelines.config.groups import (
    ExplorationConfig,
    LivesConfig,
    NetworkConfig,
    OptimizerConfig,
    ReplayConfig,
    RolloutConfig,
)
from rlpipe.pipelines.config.train import TrainConfig

if TYPE_CHECKING:
    from rlpipe.losses.base.q_network import Bootstrap

C = TypeVar("C", bound="QNetworkConfig")


@dataclass(frozen=True)
class QNetworkConfig(
    ReplayConfig, RolloutConfig, ExplorationConfig, OptimizerConfig, NetworkConfig, LivesConfig, TrainConfig
):
    """The options of a Q network that learns from replay."""

    num_envs: int = 32
    rollout_steps: int = 8
    hidden: tuple[int, ...] = (120, 84)
    activation: Activation = "relu"
    initialization: Initialization = "default"
    layer_norm: bool = True
    max_grad_norm: float | None = 10.0
    n_steps: int = number(3, at_least=1, at_most=1_000_000)
    """Steps whose rewards are summed before bootstrapping; at most `rollout_steps`."""
    double: bool = True
    """Use Double DQN, where the online network chooses the next action and the target network values it."""
    dueling: bool = False
    """Use a dueling network: split the last layer into a state value and advantages."""
    target_network: bool = True
    """Bootstrap from a slow copy of the network."""
    tau: float = number(0.05, above=0, at_most=1)
    """Fraction by which the target moves towards the network in each update; 1 copies it."""
    target_every: int = number(1, at_least=1, at_most=MANY)
    """Gradient steps between two updates of the target network."""
    max_grad_value: float | None = number(None, above=0, at_most=LARGEST)
    """Clamp each element of the gradient to this magnitude."""

    def validate(self) -> None:
        """Check the replay buffer, that a batch holds the n steps, and that Double has a target network."""
        self.check_replay(self.frames_per_batch, self.total_frames)
        if self.n_steps > self.rollout_steps:
            raise ConfigError(f"n_steps is {self.n_steps}; allowed is at most {self.rollout_steps}, the rollout_steps")
        if self.double and not self.target_network:
            raise ConfigError("double is True, which needs target_network to be True; set one or the other")

    def is_off_policy(self) -> bool:
        """Whether it learns from any policy's actions: with replay."""
        return self.replay

    def to_act(self: C) -> C:
        """See `TrainConfig.to_act`; leaves the replay buffer out."""
        return replace(super().to_act(), replay=False, replay_storage="transitions")

    @property
    def bootstrap(self) -> Bootstrap:
        """The options that a `QNetworkLoss` takes; its discount is in the batch, see `NStep`."""
        return {"double": self.double, "target_network": self.target_network, "n_step": True}
