"""The time that remains, as an observation. Worker processes import this module, so it must not import PyTorch."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Tuple
from gymnasium.wrappers import TimeLimit

from rlpipe.errors import ConfigError
from rlpipe.pipelines.envs.backends.atari_game import AtariGame

KEY = "time"
"""The entry of a Dict."""
_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


class RemainingTime(gym.Wrapper[Any, Any, Any, Any]):
    """Observes how much of its time limit an episode has left, from 1 at its start to 0, Pardo et al. 2018, section 2.

    A vector of floats gets it as a last number. A Dict gets an entry `time`, of shape `[1]`, and a Tuple a last one;
    any other observation becomes a Dict of `observation` and `time`.

    Unlike Gymnasium's `TimeAwareObservation` it keeps no count of its own but reads the time limit's, so that repeated
    actions count as the limit counts them, and flattens nothing.

    Args:
        env: with a time limit; of several, the one that ends episodes first counts.
        env_id: its name in messages.

    Raises:
        ConfigError: there is no time limit, or an entry `time` already.
    """

    def __init__(self, env: gym.Env[Any, Any], env_id: str) -> None:
        super().__init__(env)
        self._clock, self._limit = _clock(env, env_id)
        space, own = env.observation_space, Box(0.0, 1.0, (1,), np.float32)
        self._is_vector = isinstance(space, Box) and space.dtype in _FLOATS and len(space.shape) == 1
        if isinstance(space, Box) and self._is_vector:
            low, high = (np.append(bound, end).astype(space.dtype) for bound, end in ((space.low, 0), (space.high, 1)))
            self.observation_space = Box(low, high, dtype=space.dtype.type)
        elif isinstance(space, Dict):
            if KEY in space.spaces:
                raise ConfigError(f"time_aware adds an entry {KEY!r} to the observation, and {env_id} has one already")
            self.observation_space = Dict({**space.spaces, KEY: own})
        elif isinstance(space, Tuple):
            self.observation_space = Tuple((*space.spaces, own))
        else:
            self.observation_space = Dict({"observation": space, KEY: own})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        return self._with_time(observation), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, *rest = self.env.step(action)
        return self._with_time(observation), *rest

    def _with_time(self, observation: Any) -> Any:
        clock = self._clock
        elapsed = clock.steps if isinstance(clock, AtariGame) else clock._elapsed_steps
        left = 1.0 - (elapsed or 0) / self._limit
        if self._is_vector:
            return np.append(observation, left).astype(self.observation_space.dtype)
        own = np.array([left], np.float32)
        if isinstance(observation, dict):
            return {**observation, KEY: own}
        if isinstance(self.observation_space, Tuple):
            return (*observation, own)
        return {"observation": observation, KEY: own}


def _clock(env: gym.Env[Any, Any], env_id: str) -> tuple[Any, int]:
    """What counts an episode's steps, and its limit."""
    clocks: list[tuple[Any, int]] = []
    layer: Any = env
    while isinstance(layer, gym.Wrapper):
        if isinstance(layer, TimeLimit):
            clocks.append((layer, layer._max_episode_steps))
        layer = layer.env
    if isinstance(layer, AtariGame) and layer.limit is not None:
        clocks.append((layer, layer.limit))
    if not clocks:
        raise ConfigError(
            f"time_aware is True, and {env_id} has no time limit; set one with --max-episode-steps (max_episode_steps)"
        )
    return min(clocks, key=lambda clock: clock[1])
