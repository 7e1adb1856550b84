"""CartPole without velocities: the state is hidden, and a policy has to remember to balance the pole."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from gymnasium.spaces import Box
from gymnasium.vector.utils import batch_space

from rlpipe.pipelines.envs.backends.cartpole import SameStepCartPole

_SHOWN = slice(None, None, 2)
"""Of CartPole's four numbers: the cart's position and the pole's angle."""


class PositionCartPole(CartPoleEnv):
    """CartPole whose observation is float32 `[2]`, the cart's position and the pole's angle.

    Args:
        render_mode: as CartPole's.
    """

    def __init__(self, *, render_mode: str | None = None) -> None:
        super().__init__(render_mode=render_mode)
        self.observation_space = _narrow(self.observation_space)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        observation, info = super().reset(seed=seed, options=options)
        return observation[_SHOWN], info

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        observation, *rest = super().step(action)
        return observation[_SHOWN], *rest


class PositionCartPoleVector(SameStepCartPole):
    """`num_envs` of `PositionCartPole` in one, with same-step autoreset; observations are float32 `[num_envs, 2]`."""

    def __init__(self, num_envs: int = 1, max_episode_steps: int = 500, **options: Any) -> None:
        super().__init__(num_envs, max_episode_steps, **options)
        self.single_observation_space = _narrow(self.single_observation_space)
        self.observation_space = batch_space(self.single_observation_space, num_envs)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        if "final_obs" in info:
            info["final_obs"] = info["final_obs"][:, _SHOWN]
        return observation[:, _SHOWN], reward, terminated, truncated, info

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        observation, info = super().reset(seed=seed, options=options)
        return observation[:, _SHOWN], info


def _narrow(space: Any) -> Box:
    return Box(space.low[_SHOWN], space.high[_SHOWN])
