"""The options of REINFORCE."""

from __future__ import annotations

from dataclasses import dataclass

from rlpipe.arithmetic import ceil_div
from rlpipe.errors import ConfigError
from rlpipe.kinds import Normalization, Regression
from rlpipe.pipelines.config.groups import PolicyGradientConfig
from rlpipe.pipelines.config.train import TrainConfig
from rlpipe.pipelines.envs.arguments.known import env_spec


@dataclass(frozen=True)
class Config(PolicyGradientConfig, TrainConfig):
    """REINFORCE, tuned to solve CartPole-v1 fast."""

    num_envs: int = 16
    total_frames: int = 190_000
    max_grad_norm: float | None = None
    rollout_steps: int = 64
    """Steps of each environment in a batch; an update uses the episodes that end in it."""
    baseline: bool = False
    """Subtract a learned state value from the returns."""
    normalize: Normalization = "batch"
    """Normalise returns (minus the baseline) to mean 0 and standard deviation 1, over the batch or in each episode."""
    update_each_episode: bool = False
    """Make a gradient step for each episode; if off, one for all episodes of a batch."""
    value_kind: Regression = "mse"
    """Loss between the baseline and the returns."""
    value_coefficient: float = 0.5
    """Weight of the baseline's loss."""

    def validate(self) -> None:
        if self.cuda_graphs and self.normalize == "episode":
            raise ConfigError(
                "cuda_graphs is True, which needs normalize to be 'batch' or 'none'; it is 'episode', whose operations "
                "depend on the episodes' lengths"
            )
        for name in ("cuda_graphs", "compile"):
            if getattr(self, name) and self.recurrent is not None:
                raise ConfigError(
                    f"{name} is True with recurrent {self.recurrent!r}, whose operations depend on the episodes' "
                    "lengths; leave one out, or use ppo or a2c"
                )
        limit = self.max_episode_steps or env_spec(self.env_id).max_episode_steps
        limit = None if limit is None else ceil_div(limit, self.action_repeat)
        if limit is not None and self.frames_per_batch < limit:
            raise ConfigError(
                f"a batch is {self.frames_per_batch} frames (num_envs * rollout_steps), fewer than an episode's {limit}"
                f": REINFORCE learns from whole episodes; set rollout_steps to {ceil_div(limit, self.num_envs)} or more"
            )
