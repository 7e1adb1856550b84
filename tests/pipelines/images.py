"""Environments that observe images, for the tests of convolutional networks."""

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
        return self.np_random.integers(0, min(255, space.high.max()) + 1, space.shape).astype(space.dtype)


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
):
    options = {"shape": shape, "dtype": dtype, "low": low, "high": high}
    gym.register(f"tests/Images{name}-v0", Images, kwargs=options)
