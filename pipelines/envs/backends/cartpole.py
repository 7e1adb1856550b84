"""Gymnasium's vectorised CartPole, with same-step autoreset."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector import AutoresetMode

from rlpipe.pipelines.checkpoints.state_checks import check_like


class SameStepCartPole(CartPoleVectorEnv):
    """`CartPoleVectorEnv` that resets a finished environment in the step that finished it.

    Gymnasium's own resets one step later, in a step that takes no action and whose transition must be discarded. Here
    `step` returns the first observation of the next episode, and the true last one in `info["final_obs"]`, as
    Gymnasium's sync and async vector environments do in `SAME_STEP` mode. `reset` takes `reset_mask`.
    """

    metadata = {**CartPoleVectorEnv.metadata, "autoreset_mode": AutoresetMode.SAME_STEP}

    state: np.ndarray  # type: ignore[assignment]

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        self._move(action)
        x, _, theta, _ = self.state
        terminated = (np.abs(x) > self.x_threshold) | (np.abs(theta) > self.theta_threshold_radians)
        self.steps += 1
        truncated = self.steps >= self.max_episode_steps
        reward = -terminated.astype(np.float32) if self._sutton_barto_reward else np.ones(len(x), np.float32)
        observation, info = self.state.T.astype(np.float32, order="C"), {}
        done = terminated | truncated
        if np.count_nonzero(done):
            info = {"final_obs": observation, "_final_obs": done}
            observation = self._restart(done)
        return observation, reward, terminated, truncated, info

    def _move(self, action: np.ndarray) -> None:
        """The equations of motion, Florian 2007, in Gymnasium's order, with the same results to the bit.

        Written out here because Gymnasium's `step` spends half its time on checking the action and on resets.
        """
        x, _, theta, theta_dot = self.state
        force = np.where(action == 1, self.force_mag, -self.force_mag)
        cos, sin = np.cos(theta), np.sin(theta)
        push = (force + self.polemass_length * np.square(theta_dot) * sin) / self.total_mass
        inertia = self.length * (4.0 / 3.0 - self.masspole * np.square(cos) / self.total_mass)
        # `x` and `theta` have the same integration, so they are one array
        acceleration, moved = np.empty((2, len(x))), np.empty(self.state.shape)
        theta_acc = np.divide(self.gravity * sin - cos * push, inertia, out=acceleration[1])
        np.subtract(push, self.polemass_length * theta_acc * cos / self.total_mass, out=acceleration[0])
        positions, speeds = self.state[::2], self.state[1::2]
        new_speeds = np.add(speeds, self.tau * acceleration, out=moved[1::2])
        euler = self.kinematics_integrator == "euler"
        np.add(positions, self.tau * (speeds if euler else new_speeds), out=moved[::2])
        self.state = moved

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        mask = (options or {}).get("reset_mask")
        if mask is None:
            return super().reset(seed=seed, options=options)
        return self._restart(mask), {}

    def get_state(self) -> dict[str, Any]:
        """The state of every environment in its episode, without the random generator."""
        return {"state": self.state.copy(), "steps": self.steps.copy()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from a `get_state`."""
        check_like(self.get_state(), state)
        self.state, self.steps = state["state"].copy(), state["steps"].copy()

    def _restart(self, mask: np.ndarray) -> np.ndarray:
        (where,) = mask.nonzero()
        self.state[:, where] = self.np_random.uniform(self.low, self.high, size=(4, len(where)))
        self.steps[where] = 0
        self.prev_done = np.zeros(self.num_envs, dtype=bool)
        return self.state.T.astype(np.float32, order="C")
