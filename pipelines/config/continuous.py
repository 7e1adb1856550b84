"""What the Configs of SAC and TD3 share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

from rlpipe.errors import ConfigError
from rlpipe.kinds import Activation, Initialization
from rlpipe.pipelines.config.fields import number
from rlpipe.pipelines.config.groups import (
    BufferConfig,
    LearningRateSchedule,
    NetworkConfig,
    OptimizerConfig,
    RolloutConfig,
)
from rlpipe.pipelines.config.train import TrainConfig

C = TypeVar("C", bound="ContinuousConfig")


@dataclass(frozen=True)
class ContinuousConfig(BufferConfig, RolloutConfig, OptimizerConfig, NetworkConfig, TrainConfig):
    """An actor over Box actions and critics that read them, learning from a replay buffer."""

    env_id: str = "Pendulum-v1"
    num_envs: int = 4
    total_frames: int = 10_000
    rollout_steps: int = 4
    hidden: tuple[int, ...] = (256, 256)
    activation: Activation = "relu"
    initialization: Initialization = "default"
    lr: float = 3e-4
    lr_schedule: LearningRateSchedule = "constant"
    adam_eps: float = 1e-8
    max_grad_norm: float | None = None
    buffer_size: int = 1_000_000
    updates: int | None = number(None, at_least=1, at_most=100_000)
    """Gradient steps per collected batch; by default as many as it has frames."""
    random_warmup: bool = True
    """Act uniformly at random in the first `warmup_frames`; if off, by the policy with its exploration."""
    n_steps: int = number(1, at_least=1, at_most=1_000_000)
    """Steps whose rewards are summed before bootstrapping; at most `rollout_steps`."""
    tau: float = number(0.005, above=0, at_most=1)
    """Fraction by which the target networks move towards the networks in each update."""

    def check(self) -> None:
        """Check the replay buffer, and that a batch holds the n steps."""
        super().check()
        self.check_buffer(self.frames_per_batch, self.total_frames)
        if self.n_steps > self.rollout_steps:
            raise ConfigError(f"n_steps is {self.n_steps}; allowed is at most {self.rollout_steps}, the rollout_steps")

    def is_off_policy(self) -> bool:
        """Whether it learns from any policy's actions: with replay, as always here."""
        return True

    def to_act(self: C) -> C:
        """See `TrainConfig.to_act`; with the smallest replay buffer."""
        least = max(self.frames_per_batch, self.minibatch_size, self.warmup_frames)
        return replace(super().to_act(), buffer_size=least)

    @property
    def updates_per_batch(self) -> int:
        """Gradient steps after each batch."""
        return self.frames_per_batch if self.updates is None else self.updates
