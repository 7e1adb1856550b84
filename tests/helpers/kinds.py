"""Every kind of space, and environments that are learned only by reading one entry, or by using each part of an action.

Worker processes import it.
"""

import functools

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from rlpipe.pipelines.envs.entries import leaves_of, name_of, nest

INFINITE = np.inf
CAMERA = Box(0, 255, (1, 36, 36), np.uint8)
OBSERVATIONS = {
    "box": Box(-1.0, 1.0, (3,), np.float32),
    "matrix": Box(-INFINITE, INFINITE, (2, 2), np.float64),
    "bytes": Box(0, 3, (4,), np.uint8),
    "one-sided": Box(0.0, INFINITE, (2,), np.float32),
    "discrete": Discrete(3, start=-1),
    "multi-discrete": MultiDiscrete([2, 3], start=[5, -1]),
    "multi-discrete-2d": MultiDiscrete([[2, 3], [3, 2]], start=[[0, 1], [-1, 5]]),
    "multi-binary": MultiBinary(3),
    "multi-binary-2d": MultiBinary((2, 2)),
    "nested": Dict(
        position=Box(-1.0, 1.0, (2,), np.float32),
        robot=Dict(mode=Discrete(2, start=1), keys=MultiBinary(2), arms=Tuple([Discrete(3), MultiDiscrete([2, 2])])),
    ),
    "tuple": Tuple([Box(-1.0, 1.0, (2,), np.float32), Discrete(3)]),
    "goal": Dict({key: Box(-1.0, 1.0, (2,), np.float32) for key in ("observation", "achieved_goal", "desired_goal")}),
    "camera": Dict(camera=CAMERA, speed=Box(-1.0, 1.0, (1,), np.float32)),
}
ACTIONS = {
    "box": Box(-1.0, 1.0, (2,), np.float32),
    "unbounded": Box(-INFINITE, INFINITE, (2,), np.float32),
    "one-sided": Box(0.0, INFINITE, (2,), np.float64),
    "discrete": Discrete(3, start=-1),
    "multi-discrete": MultiDiscrete([2, 3], start=[5, -1]),
    "multi-discrete-2d": MultiDiscrete([[2, 3], [3, 2]]),
    "multi-binary": MultiBinary(3),
    "multi-binary-2d": MultiBinary((2, 2)),
    "dict": Dict(move=Discrete(3), force=Box(-1.0, 1.0, (1,), np.float32)),
    "tuple": Tuple([Discrete(2), MultiBinary(2)]),
    "nested": Dict(
        arms=Tuple([Discrete(2, start=1), Dict(grip=MultiBinary(1), turn=MultiDiscrete([2, 3]))]),
        force=Box(-2.0, 2.0, (1,), np.float64),
    ),
}
MASKS = {
    "discrete": (Discrete(4, start=2), MultiBinary(4)),
    "flat": (MultiDiscrete([2, 4, 3], start=[1, -1, 0]), MultiBinary(9)),
    "box": (MultiDiscrete([[2, 4], [3, 2]]), Box(0, 1, (11,), np.int8)),
    "each": (MultiDiscrete([2, 4, 3]), Tuple([MultiBinary(2), MultiBinary(4), MultiBinary(3)])),
}
"""An action space, and the space of its mask."""
ENTRIES = [(name, key) for name, space in OBSERVATIONS.items() for key in leaves_of(space, "observation")]
STEPS = 8


class Reads(gym.Env):
    """Pays 1 for the action that the entry `key` of the observation says; all other entries are noise."""

    action_space = Discrete(2)
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, kind, key, render_mode=None):
        self.observation_space, self.render_mode = OBSERVATIONS[kind], render_mode
        self.key, self.leaves = key, leaves_of(self.observation_space, "observation")
        self.signs = [extreme(self.leaves[key].space, highest) for highest in (False, True)]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observe(), {}

    def step(self, action):
        reward = float(action == self.answer)
        return self.observe(), reward, False, False, {}

    def observe(self):
        self.answer = int(self.np_random.integers(2))
        values = {key: drawn(leaf.space, self.np_random) for key, leaf in self.leaves.items()}
        return nest(self.leaves, {**values, self.key: self.signs[self.answer]}, self.observation_space)

    def render(self):
        return np.full((16, 16, 3), 255 * self.answer, np.uint8)


class Acts(gym.Env):
    """Pays for each number of the action that is the one wanted: up to 1 for all of them."""

    observation_space = Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, kind):
        self.action_space = ACTIONS[kind]
        self.leaves = leaves_of(self.action_space, "action")
        self.wanted = {key: wanted(leaf.space) for key, leaf in self.leaves.items()}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        pays = [self.pay(key, leaf.space, leaf.get(action)) for key, leaf in self.leaves.items()]
        return np.zeros(1, np.float32), float(np.mean(np.concatenate(pays))), False, False, {}

    def pay(self, key, space, action):
        distance = np.abs(np.ravel(action) - np.ravel(self.wanted[key]))
        return np.clip(1 - distance, -1, 1) if isinstance(space, Box) else (distance == 0).astype(float)


class Masked(gym.Env):
    """Actions are allowed by a mask that changes in each step; the reward is the sum of their numbers."""

    def __init__(self, kind):
        self.action_space, self.mask_space = MASKS[kind]
        self.sizes = np.ravel(self.action_space.nvec if kind != "discrete" else self.action_space.n)
        observed = Box(-1.0, 1.0, (2,), np.float32)
        self.observation_space = Dict(observation=observed, action_mask=self.mask_space)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observe(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        numbers = np.ravel(action - self.action_space.start)
        assert all(mask[number] for mask, number in zip(self.masks, numbers, strict=True)), (self.masks, action)
        return self.observe(), float(numbers.sum()), False, False, {}

    def observe(self):
        self.masks = [np.zeros(size, np.int8) for size in self.sizes]
        for mask in self.masks:
            mask[self.np_random.integers(len(mask), size=2)] = 1
        flat = tuple(self.masks) if isinstance(self.mask_space, Tuple) else np.concatenate(self.masks)
        return {"observation": self.np_random.uniform(-1, 1, 2).astype(np.float32), "action_mask": flat}


def wanted(space):
    """A value that is not what an untrained policy does: never the middle, and never the same in each place."""
    if isinstance(space, Box):
        return np.resize([0.75, 0.25] if np.isfinite(space.high).all() else [1.5, 0.5], space.shape)
    if isinstance(space, MultiBinary):
        return np.resize([1, 0], space.shape)
    counts = space.nvec if isinstance(space, MultiDiscrete) else space.n
    return space.start + np.resize([1, 0], np.shape(counts)) + (np.asarray(counts) > 2)


def extreme(space, highest):
    """The lowest or highest value of a leaf, or -1 or 1 where it has none."""
    if isinstance(space, Box):
        bound = space.high if highest else space.low
        return np.where(np.isfinite(bound), bound, 1 if highest else -1).astype(space.dtype)
    if isinstance(space, MultiBinary):
        return np.full(space.shape, highest, np.int8)
    counts = space.nvec if isinstance(space, MultiDiscrete) else space.n
    return space.start + highest * (counts - 1)


def drawn(space, random):
    """A random value of a leaf; of the environment's own generator, so that its seed decides."""
    if isinstance(space, Box):
        low, high = (np.where(np.isfinite(each), each, np.sign(each)) for each in (space.low, space.high))
        return random.uniform(low, high).astype(space.dtype)
    if isinstance(space, MultiBinary):
        return random.integers(2, size=space.shape).astype(np.int8)
    counts = space.nvec if isinstance(space, MultiDiscrete) else space.n
    return space.start + random.integers(counts)


def reads(kind, key):
    """The id of the environment that says what to do in an entry."""
    return f"tests/Reads-{kind}-{name_of(key).replace('.', '-')}-v0"


def acts(kind):
    """The id of the environment with actions of this kind."""
    return f"tests/Acts-{kind}-v0"


def masked(kind):
    """The id of the environment with a mask of this kind."""
    return f"tests/Masked-{kind}-v0"


for _kind, _key in ENTRIES:
    gym.register(reads(_kind, _key), functools.partial(Reads, _kind, _key), max_episode_steps=STEPS)
for _kind in MASKS:
    gym.register(masked(_kind), functools.partial(Masked, _kind), max_episode_steps=STEPS)
for _kind in ACTIONS:
    gym.register(acts(_kind), functools.partial(Acts, _kind), max_episode_steps=STEPS)
