"""Repeated actions. Worker processes import this module, so it must not import PyTorch."""

from __future__ import annotations

from typing import Any

import gymnasium as gym


class ActionRepeat(gym.Wrapper[Any, Any, Any, Any]):
    """Repeats each action, and returns the sum of the rewards and the last observation; an episode's end stops it.

    Mnih et al. 2015, Methods, where it is called frame skipping.

    Args:
        env: to step.
        times: to repeat each action.
    """

    def __init__(self, env: gym.Env[Any, Any], times: int) -> None:
        super().__init__(env)
        self._times = times

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        total: Any = 0.0
        for _ in range(self._times):
            observation, reward, terminated, truncated, info = self.env.step(action)
            # not in place, because the environment may reuse the array of its reward
            total = total + reward
            if terminated or truncated:
                break
        return observation, total, terminated, truncated, info
