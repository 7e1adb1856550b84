"""The options of A2C."""

from __future__ import annotations

from dataclasses import dataclass

from rlpipe.errors import ConfigError
from rlpipe.pipelines.config.groups import ActorCriticConfig
from rlpipe.pipelines.config.train import TrainConfig


@dataclass(frozen=True)
class Config(ActorCriticConfig, TrainConfig):
    """A2C, tuned to solve CartPole-v1 fast."""

    num_envs: int = 8
    total_frames: int = 190_000
    lr: float = 3e-3
    """Initial learning rate; high, to suit CartPole; 7e-4 is common."""
    rollout_steps: int = 64
    """Steps of each environment in a batch, which is used for one update."""
    lmbda: float = 1.0
    """Lambda of generalized advantage estimation; 1 gives n-step returns to the end of the batch."""
    value_coefficient: float = 0.01
    """Weight of the value loss; small, because `max_grad_norm` limits the joint gradient of actor and critic."""
    normalize_advantage: bool = True
    """Normalise the advantages of each batch to mean 0 and standard deviation 1."""

    def validate(self) -> None:
        """Check that there are advantages to normalise."""
        if self.normalize_advantage and self.frames_per_batch == 1:
            raise ConfigError(
                "normalize_advantage is True, which needs 2 or more frames per batch (num_envs * rollout_steps)"
            )
