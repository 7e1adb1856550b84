"""An environment for each kind of space, learned only by reading every entry and using every part of the action.

`tests/Match-OBSERVATION-ACTION-v0`, of the kinds in `OBSERVED` and `ACTED`.
"""

import itertools

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

PIXELS = (1, 36, 36)
NUMBER = Box(-1.0, 1.0, (), np.float32)
OBSERVED = {
    "box": Box(-1.0, 1.0, (3,), np.float32),
    "multi_discrete": MultiDiscrete([[2], [2], [2]], start=[[5], [0], [-3]]),
    "multi_binary": MultiBinary(3),
    "dict": Dict({"a": NUMBER, "robot": Dict({"key": MultiBinary(1), "mode": Discrete(2, start=4)})}),
    "tuple": Tuple((MultiDiscrete([2]), NUMBER, Discrete(2))),
    "camera": Dict({"camera": Box(0, 255, PIXELS, np.uint8), "mode": Discrete(2), "speed": NUMBER}),
}
ACTED = {
    "multi_discrete": MultiDiscrete([2, 3, 2]),
    "matrix": MultiDiscrete([[2], [2], [2]], start=[[7], [0], [1]]),
    "multi_binary": MultiBinary(3),
    "dict": Dict(
        {"arm": Dict({"force": Box(-1.0, 1.0, (1,), np.float32), "grip": MultiBinary(1)}), "move": Discrete(2)}
    ),
    "tuple": Tuple((Discrete(2, start=3), MultiDiscrete([2, 2]))),
    "box": Box(-1.0, 1.0, (3,), np.float32),
}


def bits(space, value):
    """A bit for each number of a value: a choice itself, a number's sign, or whether an image is bright."""
    if isinstance(space, Dict):
        return list(itertools.chain(*(bits(each, value[key]) for key, each in space.items())))
    if isinstance(space, Tuple):
        return list(itertools.chain(*map(bits, space, value)))
    if isinstance(space, Box):
        return [np.mean(value) > 127] if space.shape == PIXELS else list(np.ravel(value > 0))
    return list(np.ravel(value - getattr(space, "start", 0) == 1))


def draw(space, random):
    """A value of a space, each bit of which is as likely as not."""
    if isinstance(space, Dict):
        return {key: draw(each, random) for key, each in space.items()}
    if isinstance(space, Tuple):
        return tuple(draw(each, random) for each in space)
    if isinstance(space, Box) and space.shape == PIXELS:
        return np.full(PIXELS, 200 * random.integers(2), np.uint8)
    if isinstance(space, Box):
        return (random.choice([-1, 1], space.shape) * random.uniform(0.2, 1.0, space.shape)).astype(np.float32)
    drawn = random.integers(2, size=space.shape).astype(space.dtype) + getattr(space, "start", 0)
    return drawn.astype(space.dtype)


class Match(gym.Env):
    """The reward is the share of the observation's bits that the action repeats."""

    def __init__(self, observation, action):
        self.observation_space, self.action_space = OBSERVED[observation], ACTED[action]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._seen = draw(self.observation_space, self.np_random)
        return self._seen, {}

    def step(self, action):
        assert action in self.action_space, action
        seen, done = bits(self.observation_space, self._seen), bits(self.action_space, action)
        self._seen = draw(self.observation_space, self.np_random)
        return self._seen, float(np.mean(np.array(seen) == np.array(done))), False, False, {}


for observed, acted in itertools.product(OBSERVED, ACTED):
    kwargs = {"observation": observed, "action": acted}
    gym.register(f"tests/Match-{observed}-{acted}-v0", Match, max_episode_steps=10, kwargs=kwargs)
