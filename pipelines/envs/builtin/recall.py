"""A task of memory: a cue, then a wait, then the answer."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete


class Recall(gym.Env[np.ndarray, Any]):
    """Shows one of `cues` cues for one step, waits, and then rewards the action of the cue's number with 1.

    An observation is float32 `[cues + 1]`: the cue, 1 at its place at the first step and 0 later; and at the last step
    a 1 at the end, which asks for the answer. Earlier actions do nothing. Without a memory the best mean return is
    `1 / cues`.

    Args:
        cues: how many.
        wait: steps between the cue and the answer.

    Raises:
        ValueError: fewer than two cues, or a negative wait.
    """

    def __init__(self, *, cues: int = 4, wait: int = 8) -> None:
        if cues < 2 or wait < 0:
            raise ValueError(f"cues is {cues} and wait {wait}; allowed are 2 or more, and 0 or more")
        self.observation_space, self.action_space = Box(0.0, 1.0, (cues + 1,), np.float32), Discrete(cues)
        self._cues, self._wait, self._cue, self._step = cues, wait, 0, 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._cue, self._step = int(self.np_random.integers(self._cues)), 0
        return self._observation(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        answered = self._step > self._wait
        self._step += 1
        return self._observation(), float(answered and action == self._cue), answered, False, {}

    def get_state(self) -> dict[str, Any]:
        """The state of the episode, without the random generator."""
        return {"cue": self._cue, "step": self._step}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from a `get_state`."""
        self._cue, self._step = state["cue"], state["step"]

    def _observation(self) -> np.ndarray:
        observation = np.zeros(self._cues + 1, np.float32)
        if self._step == 0:
            observation[self._cue] = 1.0
        observation[-1] = self._step == self._wait + 1
        return observation
