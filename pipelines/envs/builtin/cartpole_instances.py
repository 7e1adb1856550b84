"""A family of CartPoles: the pole's length and mass are drawn for each episode, and shown to the agent or not.

An instance is a pair of half-length and mass, on a 5 x 5 grid spaced evenly in logarithms. The grid is a checkerboard:
its 13 squares of one colour, the corners among them, are for training and the 12 others are held out, so each held-out
instance lies between training ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from gymnasium.spaces import Box
from gymnasium.vector.utils import batch_space

from rlpipe.pipelines.envs.backends.cartpole import SameStepCartPole

# From a short and quick pole to a long and slow one. A linear-quadratic regulator made for an instance balances it for
# 500 steps, and one made for another instance often does not. Still, an agent need not see its instance: one linear
# controller, found by a search over the whole grid, balances them all.
HALF_LENGTHS = np.geomspace(0.05, 1.6, 5)
MASSES = np.geomspace(0.05, 2.0, 5)


class InstanceCartPole(CartPoleEnv):
    """CartPole with a new pole at each reset.

    The observation is float32 `[6]`: CartPole's four, then the pole's half-length and mass as places on their
    logarithmic scales, from -1 (least) to 1 (greatest).

    Args:
        held_out: draw from the instances held out, not from those for training.
        blind: the last two numbers are 0, whatever the pole.
        render_mode: as CartPole's.
    """

    def __init__(self, *, held_out: bool = False, blind: bool = False, render_mode: str | None = None) -> None:
        super().__init__(render_mode=render_mode)
        self.observation_space = _widen(self.observation_space, blind)
        self._instances, self._shown = instances(held_out=held_out), _places(held_out, blind)
        self._drawn = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        observation, info = super().reset(seed=seed, options=options)
        self._drawn = int(self.np_random.integers(len(self._instances)))
        _fit_pole(self, *self._instances[self._drawn])
        return self._append(observation), info

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        observation, *rest = super().step(action)
        return self._append(observation), *rest

    def _append(self, observation: np.ndarray) -> np.ndarray:
        return np.concatenate([observation, self._shown[self._drawn]])


class InstanceCartPoleVector(SameStepCartPole):
    """`num_envs` of `InstanceCartPole` in one, each with its own pole, with same-step autoreset.

    Observations are float32 `[num_envs, 6]`. It does not render, because CartPole draws one length only.
    """

    metadata = {**SameStepCartPole.metadata, "render_modes": []}

    def __init__(
        self, num_envs: int = 1, max_episode_steps: int = 500, *, held_out: bool = False, blind: bool = False
    ) -> None:
        super().__init__(num_envs, max_episode_steps)
        self.single_observation_space = _widen(self.single_observation_space, blind)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self._instances, self._shown = instances(held_out=held_out), _places(held_out, blind)
        self._drawn = np.zeros(num_envs, dtype=np.int64)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        stepped = self._drawn
        observation, reward, terminated, truncated, info = super().step(action)
        if "final_obs" in info:
            info["final_obs"] = self._append(info["final_obs"], stepped)
        return self._append(observation, self._drawn), reward, terminated, truncated, info

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        observation, info = super().reset(seed=seed, options=options)
        if (options or {}).get("reset_mask") is None:
            self._redraw(np.ones(self.num_envs, dtype=bool))
        return self._append(observation, self._drawn), info

    def get_state(self) -> dict[str, Any]:
        return {**super().get_state(), "drawn": self._drawn.copy()}

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        self._drawn = state["drawn"].copy()
        _fit_pole(self, *self._instances[self._drawn].T)

    def _restart(self, mask: np.ndarray) -> np.ndarray:
        observation = super()._restart(mask)
        self._redraw(mask)
        return observation

    def _redraw(self, mask: np.ndarray) -> None:
        # a new array: `step` still needs the old one for the last observations
        self._drawn = self._drawn.copy()
        self._drawn[mask] = self.np_random.integers(len(self._instances), size=int(mask.sum()))
        _fit_pole(self, *self._instances[self._drawn].T)

    def _append(self, observation: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        return np.concatenate([observation, self._shown[drawn]], axis=1)


def instances(*, held_out: bool) -> np.ndarray:
    """The poles to draw from: half-length and mass, float64 `[13, 2]`, or `[12, 2]` of those held out."""
    rows, columns = _squares(held_out)
    return np.stack([HALF_LENGTHS[rows], MASSES[columns]], axis=1)


def _places(held_out: bool, blind: bool) -> np.ndarray:
    """What an observation shows of each instance."""
    places = np.stack(_squares(held_out), axis=1).astype(np.float32) / 2 - 1
    return np.zeros_like(places) if blind else places


def _squares(held_out: bool) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.indices((len(HALF_LENGTHS), len(MASSES)))
    chosen = (rows + columns) % 2 == held_out
    return rows[chosen], columns[chosen]


def _widen(space: Any, blind: bool) -> Box:
    # narrower for the blind, so that the spaces differ, although a policy fits both
    edge = np.full(2, 0.5 if blind else 1.0, dtype=np.float32)
    return Box(np.concatenate([space.low, -edge]), np.concatenate([space.high, edge]))


def _fit_pole(env: Any, length: Any, mass: Any) -> None:
    """Set everything that CartPole's equations read of its pole; lengths and masses may be arrays `[num_envs]`."""
    env.length, env.masspole = length, mass
    env.total_mass = mass + env.masscart
    env.polemass_length = mass * length
