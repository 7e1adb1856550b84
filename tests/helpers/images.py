"""Environments that observe images: of noise, and of which each says its environment, episode and step."""

from __future__ import annotations

from typing import ClassVar

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete


class Images(gym.Env):
    """Observes noise as an image, and is paid for action 0."""

    action_space = Discrete(3)

    def __init__(self, shape=(2, 36, 36), dtype=np.uint8, low=0, high=255) -> None:
        self.observation_space = Box(low, high, shape, dtype)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.draw(), {}

    def step(self, action):
        return self.draw(), float(action == 0), bool(self.np_random.random() < 0.1), False, {}

    def draw(self):
        space = self.observation_space
        return self.np_random.integers(0, min(255, space.high.max(initial=0)) + 1, space.shape).astype(space.dtype)


IMAGES = "tests/Images-v0"
gym.register(IMAGES, Images)
for name, shape, dtype, low, high in (
    ("Low", (2, 35, 36), np.uint8, 0, 255),
    ("Small", (7, 7, 3), np.uint8, 0, 255),
    ("Vector", (9,), np.uint8, 0, 255),
    ("Table", (40, 40), np.float32, 0, 255),
    ("Last", (40, 40, 3), np.uint8, 0, 255),
    ("Grey", (40, 40), np.uint8, 0, 255),
    ("Stacked", (4, 40, 40, 3), np.uint8, 0, 255),
    ("Float", (2, 36, 36), np.float32, 0, 255),
    ("Unit", (36, 36, 3), np.float32, 0, 1),
    ("Open", (36, 36, 3), np.float32, -np.inf, np.inf),
    ("Signed", (36, 36, 3), np.float64, -1, 1),
    ("Depth", (1, 36, 36), np.int32, 0, 1000),
    ("Map", (36, 36, 2), np.uint8, 0, 1),
    ("None", (0,), np.float32, 0, 1),
):
    options = {"shape": shape, "dtype": dtype, "low": low, "high": high}
    gym.register(f"tests/Images{name}-v0", Images, kwargs=options)


STACK, HEIGHT, WIDTH = 4, 5, 8


def frame(environment: int, episode: int, step: int) -> np.ndarray:
    """A picture of these three numbers; steps before the first are negative."""
    words = np.array([environment, episode, step, 7 * environment + 3 * episode + step, 0xAB], np.int64)
    return words.view(np.uint8).reshape(HEIGHT, WIDTH).copy()


def read(picture: np.ndarray) -> tuple[int, int, int]:
    """Environment, episode and step of a picture."""
    environment, episode, step, total, mark = np.ascontiguousarray(picture).view(np.int64).reshape(-1)
    assert (total, mark) == (7 * environment + 3 * episode + step, 0xAB)
    return int(environment), int(episode), int(step)


class Counting(gym.Env):
    """Counts; the action changes nothing but the reward.

    Episodes end after `lengths[k]` steps, over and over, every second time truncated.
    """

    lengths: ClassVar[tuple[int, ...]] = (5,)
    start: ClassVar[str] = "repeated"
    made: ClassVar[int] = 0
    """The number of the next one that is not seeded; the others have their seed as theirs."""

    def __init__(self, render_mode: str | None = None) -> None:
        self.observation_space = gym.spaces.Box(0, 255, (STACK, HEIGHT, WIDTH), np.uint8)
        self.action_space = gym.spaces.Discrete(3)
        self.render_mode = render_mode
        self.number, type(self).made = type(self).made, type(self).made + 1
        self.episode = -1

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        if seed is not None:
            self.number, self.episode = seed % 2**31, -1
        self.episode, self.step_count = self.episode + 1, 0
        older = {
            "repeated": [self._frame(0)] * (STACK - 1),
            "zeros": [np.zeros((HEIGHT, WIDTH), np.uint8)] * (STACK - 1),
            "before": [self._frame(step) for step in range(1 - STACK, 0)],
        }[self.start]
        self.frames = [*older, self._frame(0)]
        return np.stack(self.frames), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.step_count += 1
        self.frames = [*self.frames[1:], self._frame(self.step_count)]
        ended = self.step_count >= self.lengths[(self.number + self.episode) % len(self.lengths)]
        truncated = self.episode % 2 == 1
        reward = float(1000 * self.episode + self.step_count + 0.25 * int(action))
        return np.stack(self.frames), reward, ended and not truncated, ended and truncated, {}

    def get_state(self) -> dict:
        return {name: vars(self)[name] for name in ("number", "episode", "step_count")} | {
            "frames": np.stack(self.frames)
        }

    def set_state(self, state: dict) -> None:
        vars(self).update({**state, "frames": list(state["frames"])})

    def _frame(self, step: int) -> np.ndarray:
        return frame(self.number, self.episode, step)


def counting(lengths: tuple[int, ...], start: str = "repeated") -> type[Counting]:
    """A class of them, whose first one is number 0."""
    return type("Counting", (Counting,), {"lengths": lengths, "start": start, "made": 0})
