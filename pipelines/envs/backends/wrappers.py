"""Wrappers of environments that learn while they are stepped, and so are refused.

Not among `envs/`, because each worker process imports this module, and that package imports PyTorch.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from rlpipe.errors import ConfigError

_STATISTICS = "RunningMeanStd"
"""The class that keeps them, in Gymnasium and wherever its wrappers were copied to."""


def check_wrappers(env: gym.Env[Any, Any] | gym.vector.VectorEnv, env_id: object) -> None:
    """Refuse an environment that is normalised by statistics of its own.

    Each copy would have others, an evaluation would begin with none, and returns would be those of normalised rewards.
    Statistics that are held still (`update_running_mean` is False) are a fixed scale, and are taken.

    Args:
        env: with all its wrappers; of a vector environment, those of its environments too.
        env_id: how messages call it.

    Raises:
        ConfigError: a wrapper learns; says what to use instead.
    """
    layer: Any = env
    while isinstance(layer, (gym.Wrapper, gym.vector.VectorWrapper)):
        held = vars(layer).items()
        learned = [name for name, value in held if any(each.__name__ == _STATISTICS for each in type(value).__mro__)]
        if learned and getattr(layer, "update_running_mean", True):
            # Gymnasium's names are obs_rms and return_rms
            of_rewards = any(name.startswith("re") for name in learned)
            instead = (
                "returns would be those of its normalised rewards; leave it out (ppo and a2c normalise advantages) or "
                "scale by a fixed number with Gymnasium's TransformReward"
                if of_rewards
                else "an evaluation would begin with none; leave it out and use --normalize-frames, such as 1000"
            )
            raise ConfigError(
                f"env-id {env_id!r} has the wrapper {type(layer).__name__}, which learns statistics in each copy of "
                f"the environment, and {instead}"
            )
        layer = layer.env
    for each in getattr(layer, "envs", ())[:1]:
        check_wrappers(each, env_id)
