"""Environments that report success, and other things in infos, in a file of their own because workers import it."""

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


class Mapping(dict):
    """A dict that answers no question."""

    def __contains__(self, key):
        raise RuntimeError("no")


HUGE = {str(number): number for number in range(10_000)}


class Hostile(Goal):
    """Each info is worse than the one before."""

    def step(self, action):
        observation, reward, *_ = super().step(action)
        worst = [
            {"steps": np.zeros(self._steps)},
            {"steps": None, "is_success": None, 7: 1, None: 2, ("a", 1): 3},
            {"final_obs": 1, "_final_obs": None, "final_info": "x", "_final_info": 5, "_steps": "mask"},
            HUGE,
            Mapping(steps=1),
            {"steps": float("nan"), "is_success": np.array([1.0, 0.0])},
            {"steps": "many", "is_success": "yes"},
            {"steps": 1e308, "is_success": np.array(1.0)},
            {"rlpipe numbers": 3, "rlpipe names": None, "_rlpipe numbers": object()},
            {"reward": 3, "steps": {"steps": 3}},
        ]
        self.number = getattr(self, "number", -1) + 1
        return observation, reward, self.number % 2 == 1, False, worst[self.number // 2 % len(worst)]

    def reset(self, **options):
        return super().reset(**options)[0], {"final_obs": np.zeros(9), "final_info": None, "_steps": object()}


gym.register("tests/Hostile-v0", Hostile, max_episode_steps=100)


class Walk(gym.Env):
    """The info of an episode's last step holds the path, which is of another length each time."""

    observation_space, action_space = Goal.observation_space, Goal.action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.path, self.length = [0.0], int(self.np_random.integers(1, 4))
        return np.zeros(1, np.float32), {"seed": self.np_random_seed}

    def step(self, action):
        self.path.append(0.5)
        ended = len(self.path) > self.length
        info = {"path": np.array(self.path), "steps": len(self.path), "is_success": True} if ended else {}
        return np.ones(1, np.float32), 1.0, ended, False, info
