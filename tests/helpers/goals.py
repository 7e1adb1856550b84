"""An environment that reports success, in a file of its own because worker processes import it."""

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete


class Goal(gym.Env):
    """Episodes of 2 to 5 steps, which it observes; one of even length ends well, and says so as `says` has it."""

    observation_space, action_space = Box(-1.0, 9.0, (1,), np.float32), Discrete(2)
    says = staticmethod(bool)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._steps, self._length = 0, int(self.np_random.integers(2, 6))
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self._steps += 1
        ended = self._steps == self._length
        info = {"is_success": self.says(self._length % 2 == 0)} if ended else {}
        return np.full(1, self._steps, np.float32), 0.5, ended, False, info


gym.register("tests/Goal-v0", Goal, max_episode_steps=100)


class Runner(Goal):
    """The same, with numbers in each info: its steps, and twice as many in a dict; and text, an array and an object."""

    def reset(self, **options):
        observation, _ = super().reset(**options)
        return observation, {"steps": -100}

    def step(self, action):
        *result, info = super().step(action)
        odd = {"word": "far", "path": np.zeros(self._steps), 7: object()}
        return *result, {**info, **odd, "steps": np.int64(self._steps), "reward": {"forward": 2.0 * self._steps}}


gym.register("tests/Runner-v0", Runner, max_episode_steps=100)
