"""Environments that take arguments, in a file of their own because run folders and worker processes name it."""

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete

LIMIT = 6


class Sized(gym.Env):
    """Observes how many steps it has taken, `size` times, in one array that it reuses; each step earns `reward`."""

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, size=3, reward=1.0, notes=None, render_mode=None):
        self.size, self.reward, self.render_mode = size, reward, render_mode
        self.notes = [] if notes is None else notes
        # what an environment does with its arguments must not reach another
        self.notes.append("made")
        self.observation_space, self.action_space = Box(0.0, 100.0, (size,), np.float32), Discrete(2)
        self.kept = np.zeros(size, np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.kept[:] = 0
        return self.kept, {}

    def step(self, action):
        self.kept += 1
        return self.kept, self.reward, bool(self.kept[0] >= LIMIT), False, {}

    def render(self):
        return np.full((40, 40, 3), int(self.kept[0]), np.uint8)

    def get_state(self):
        return {"kept": self.kept.copy()}

    def set_state(self, state):
        self.kept[:] = state["kept"]


class Doubled(gym.RewardWrapper):
    """Multiplies rewards."""

    def __init__(self, env, factor=2.0):
        super().__init__(env)
        self.factor = factor

    def reward(self, reward):
        return self.factor * float(reward)


def make_sized(size=4, **others):
    """Makes one, as a function."""
    return Sized(size, **others)


def needs(size):
    """Has an argument that must be given."""
    return Sized(size)


def makes_none():
    """Forgets to return."""


def make_several():
    """Makes two at once."""
    return gym.make_vec("CartPole-v1", 2)


def breaks():
    """Fails."""
    raise RuntimeError("no licence")


class Stuck(Sized):
    """Cannot be copied."""

    def __deepcopy__(self, memo):
        raise TypeError("cannot pickle 'socket' object")


gym.register("tests/Sized-v0", Sized, max_episode_steps=4, kwargs={"size": 2})
