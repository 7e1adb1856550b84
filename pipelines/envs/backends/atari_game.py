"""A single Atari game, which the `sync` and `async` backends step and `rlpipe render` draws.

Worker processes import this module, so it must not import PyTorch.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box, Dict, Discrete

from rlpipe.pipelines.envs.backends.pixel_observation import SIDE, STACKED

FRAMESKIP = 4
"""Emulated frames per step."""
FIXED = frozenset({"game", "frameskip", "obs_type", "max_num_frames_per_episode"})
"""Arguments of the game that its id or the preprocessing sets."""
_MOST_LIVES = 256
_EMULATED_FPS = 60


def is_game(spec: EnvSpec) -> bool:
    """Whether an environment is one of the Arcade Learning Environment, such as `ALE/Pong-v5`."""
    return spec.namespace == "ALE" and spec.entry_point == "ale_py.env:AtariEnv"


def game_observations() -> Dict:
    """The observation space of a game: `observation`, uint8 `[4, 84, 84]`, and `lives`, those left; 0 without any.

    Images before an episode's start are 0.
    """
    image = Box(low=0, high=255, shape=(STACKED, SIDE, SIDE), dtype=np.uint8)
    return Dict({"observation": image, "lives": Discrete(_MOST_LIVES)})


class AtariGame(gym.Env[Any, Any]):
    """One game, with the preprocessing of Mnih et al. 2015: what `AtariGames` does in C++, in Python.

    Each step repeats its action for four emulated frames. Its image is the pixelwise maximum of the last two, in grey,
    84 x 84; an observation is the last four images. Sticky actions and the time limit are those of the id.

    Args:
        spec: Gymnasium's entry, for which `is_game` holds.
        max_episode_steps: truncate episodes here instead of at the id's limit.
        render_mode: `rgb_array`, for `render`.

    Raises:
        ModuleNotFoundError: ALE is not installed.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": _EMULATED_FPS // FRAMESKIP}

    def __init__(self, spec: EnvSpec, max_episode_steps: int | None = None, render_mode: str | None = None) -> None:
        from ale_py import ALEInterface, LoggerMode  # noqa: PLC0415 - an extra
        from ale_py.env import AtariEnv  # noqa: PLC0415

        # otherwise each game prints a greeting
        ALEInterface.setLoggerMode(LoggerMode.Error)
        # frames are skipped and episodes cut here: the game counts frames, not steps
        own = {"frameskip": 1, "obs_type": "grayscale", "max_num_frames_per_episode": None}
        self._game: Any = AtariEnv(**{**spec.kwargs, **own, "render_mode": render_mode})
        self.spec, self.render_mode = spec, render_mode
        self.limit, self.steps = max_episode_steps or spec.max_episode_steps, 0
        self.observation_space, self.action_space = game_observations(), self._game.action_space
        self._rows, self._columns = (_Edges(pixels) for pixels in self._game.ale.getScreenDims())
        self._frames: deque[np.ndarray] = deque(maxlen=STACKED)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        frame, info = self._game.reset(seed=seed)
        self.steps = 0
        self._frames.extend([np.zeros((SIDE, SIDE), np.uint8)] * STACKED)
        return self._observe(frame, info)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        total, seen = 0.0, deque[np.ndarray](maxlen=2)
        for _ in range(FRAMESKIP):
            frame, reward, terminated, _, info = self._game.step(action)
            total += float(reward)
            seen.append(frame)
            if terminated:
                break
        truncated = self.limit is not None and self.steps >= self.limit
        observation, info = self._observe(np.max(seen, axis=0), info)
        return observation, total, terminated, truncated, info

    def render(self) -> Any:
        """The game's screen, in color."""
        return self._game.render()

    def _observe(self, frame: np.ndarray, info: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        small = self._columns.mean(self._rows.mean(frame).T).T
        self._frames.append(small.round().astype(np.uint8))
        return {"observation": np.stack(self._frames), "lives": np.int64(info["lives"])}, {}


class _Edges:
    """Where the edges of the smaller image's pixels lie on a line of `pixels` pixels."""

    def __init__(self, pixels: int) -> None:
        places = np.linspace(0, pixels, SIDE + 1)
        self._before = np.minimum(places.astype(np.int64), pixels - 1)
        self._share, self._width = (places - self._before)[:, None], pixels / SIDE

    def mean(self, lines: np.ndarray) -> np.ndarray:
        """The mean of `lines` `[pixels, N]` between neighbouring edges, `[84, N]`."""
        sums = np.vstack([np.zeros_like(lines[:1], np.float64), lines.cumsum(0, np.float64)])
        at = sums[self._before] + self._share * lines[self._before]
        return np.diff(at, axis=0) / self._width
