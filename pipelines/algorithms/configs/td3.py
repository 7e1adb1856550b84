"""The options of TD3."""

from __future__ import annotations

from dataclasses import dataclass

from rlpipe.pipelines.config.continuous import ContinuousConfig
from rlpipe.pipelines.config.fields import number
from rlpipe.pipelines.config.groups import ActionNoiseConfig


@dataclass(frozen=True)
class Config(ActionNoiseConfig, ContinuousConfig):
    """TD3, with the networks and rates that are usual for it."""

    lr: float = 1e-3
    policy_delay: int = number(2, at_least=1, at_most=1_000_000)
    """Updates of the critics for each update of the actor and of the target networks."""
    target_noise: float = number(0.2, at_least=0, at_most=1e6)
    """Standard deviation of the noise in the target's action, in units of half the action's range."""
    target_noise_clip: float = number(0.5, at_least=0, at_most=1e6)
    """Largest magnitude of that noise."""
