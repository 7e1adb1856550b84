"""Environments that observe images, for the tests of convolutional networks."""

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete


class Images(gym.Env):
    """Observes noise as an image, and is paid for action 0."""

    action_space = Discrete(3)

    def __init__(self, shape=(2, 36, 36), dtype=np.uint8) -> None:
        self.observation_space = Box(0, 255, shape, dtype)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.draw(), {}

    def step(self, action):
        return self.draw(), float(action == 0), bool(self.np_random.random() < 0.1), False, {}

    def draw(self):
        space = self.observation_space
        return self.np_random.integers(0, 256, space.shape).astype(space.dtype)


IMAGES = "tests/Images-v0"
gym.register(IMAGES, Images)
for name, shape, dtype in (
    ("Low", (2, 35, 36), np.uint8),
    ("Last", (40, 40, 3), np.uint8),
    ("Grey", (40, 40), np.uint8),
    ("Float", (2, 36, 36), np.float32),
):
    gym.register(f"tests/Images{name}-v0", Images, kwargs={"shape": shape, "dtype": dtype})
