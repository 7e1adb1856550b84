"""Gymnasium's vectorised CartPole, with same-step autoreset."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector import AutoresetMode


class SameStepCartPole(CartPoleVectorEnv):
    """`CartPoleVectorEnv` that resets a finished environment in the step that finished it.

    Gymnasium's own resets one step later, in a step that takes no action and whose transition must be thrown away. Here
    `step` returns the first observation of the next episode, and the true last one in `info["final_obs"]`, as
    Gymnasium's sync and async vector environments do in their `SAME_STEP` mode. `reset` takes `reset_mask`.
    """

    metadata = {**CartPoleVectorEnv.metadata, "autoreset_mode": AutoresetMode.SAME_STEP}

    state: np.ndarray  # type: ignore[assignment]

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        done = self.prev_done
        if done.any():
            info = {"final_obs": observation, "_final_obs": done}
            observation = self._restart(done)
        return observation, reward, terminated, truncated, info

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        mask = (options or {}).get("reset_mask")
        if mask is None:
            return super().reset(seed=seed, options=options)
        return self._restart(mask), {}

    def _restart(self, mask: np.ndarray) -> np.ndarray:
        self.state[:, mask] = self.np_random.uniform(self.low, self.high, size=(4, int(mask.sum())))
        self.steps[mask] = 0
        self.prev_done = np.zeros(self.num_envs, dtype=bool)
        return self.state.T.astype(np.float32)
