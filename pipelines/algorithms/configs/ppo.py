"""The options of PPO."""

from __future__ import annotations

from dataclasses import dataclass

from rlpipe.errors import ConfigError
from rlpipe.kinds import Activation
from rlpipe.pipelines.config.fields import LARGEST, number
from rlpipe.pipelines.config.groups import ActorCriticConfig, LivesConfig
from rlpipe.pipelines.config.train import TrainConfig


@dataclass(frozen=True)
class Config(ActorCriticConfig, LivesConfig, TrainConfig):
    """PPO, tuned to solve CartPole-v1 fast."""

    num_envs: int = 16
    hidden: tuple[int, ...] = (128,)
    activation: Activation = "relu"
    lr: float = 3e-3
    entropy_coefficient: float = 0.01
    minibatch_size: int = number(128, at_least=1, at_most=10_000_000)
    """Samples per gradient step."""
    epochs: int = number(4, at_least=1, at_most=100_000)
    """Passes over each batch."""
    clip: float = number(0.3, above=0, at_most=LARGEST)
    """Clip the probability ratio to within this distance of 1."""
    value_clip: float | None = number(None, above=0, at_most=LARGEST)
    """Also clip how far a value may move in an update, in units of return."""
    target_kl: float | None = number(None, above=0, at_most=LARGEST)
    """Leave the rest of the epochs out once the `approx_kl` of a minibatch is above 1.5 times this."""

    def validate(self) -> None:
        """Check that a minibatch fits into a batch."""
        if self.normalize_advantage and self.minibatch_size == 1:
            raise ConfigError("normalize_advantage is True, which needs a minibatch_size of 2 or more")
        if self.minibatch_size > self.frames_per_batch:
            raise ConfigError(
                f"minibatch_size is {self.minibatch_size}; allowed is at most {self.frames_per_batch}, the frames of "
                "a batch (num_envs * rollout_steps)"
            )
        if self.recurrent is not None and self.minibatch_size % self.rollout_steps:
            whole = max(self.minibatch_size // self.rollout_steps, 1) * self.rollout_steps
            raise ConfigError(
                f"minibatch_size is {self.minibatch_size}; with recurrent, a minibatch has whole sequences of "
                f"{self.rollout_steps} steps, the rollout_steps: set it to a multiple, such as {whole}"
            )
