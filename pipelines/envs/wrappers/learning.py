"""Wrappers that learn are refused. Worker processes import this module, so it must not import PyTorch."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from rlpipe.errors import ConfigError

_STATISTICS = "RunningMeanStd"
"""The class that keeps statistics, in Gymnasium and in copies of its wrappers."""


def check_wrappers(env: gym.Env[Any, Any] | gym.vector.VectorEnv, env_id: object) -> None:
    """Refuse an environment that is normalised by running statistics.

    Each copy would have different ones, an evaluation would begin without any, and returns would be of normalised
    rewards. Statistics that do not change (`update_running_mean` is False) are accepted.

    Args:
        env: with all its wrappers; of a vector environment, also those of its environments.
        env_id: its name in messages.

    Raises:
        ConfigError: a wrapper learns; the message says what to use instead.
    """
    layer: Any = env
    while isinstance(layer, (gym.Wrapper, gym.vector.VectorWrapper)):
        held = vars(layer).items()
        learned = [name for name, value in held if any(each.__name__ == _STATISTICS for each in type(value).__mro__)]
        if learned and getattr(layer, "update_running_mean", True):
            # Gymnasium's names are obs_rms and return_rms
            of_rewards = any(name.startswith("re") for name in learned)
            instead = (
                "returns would be those of its normalised rewards; leave it out and use --normalize-reward"
                if of_rewards
                else "an evaluation would begin with none; leave it out and use --normalize-observation"
            )
            raise ConfigError(
                f"env-id {env_id!r} has the wrapper {type(layer).__name__}, which learns statistics in each copy of "
                f"the environment, and {instead}"
            )
        layer = layer.env
    for each in getattr(layer, "envs", ())[:1]:
        check_wrappers(each, env_id)
