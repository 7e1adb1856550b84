"""An environment that observes the time; other processes find it as `clock:tests/Clock-v0`."""

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete


class Clock(gym.Env):
    """Observes the time, in episodes of random lengths."""

    observation_space, action_space = Box(-1.0, 99.0, (1,)), Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time, self.length = 0, self.np_random.integers(2, 9)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.time += 1
        return np.full(1, self.time, np.float32), 1.0 + action, self.time >= self.length, False, {}


gym.register("tests/Clock-v0", Clock)
