"""Environments whose return depends on each number of each action, so that equal returns mean equal actions."""

import copy

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, Tuple, flatten

SPACES = {
    "Discrete": (Box(-1, 1, (3,), np.float32), Discrete(3, start=5)),
    "Box": (Box(-1, 1, (2, 2), np.float64), Box(-2, 1, (2,), np.float32)),
    "Nested": (
        Dict(seen=Box(-1, 1, (2,), np.float32), room=Discrete(4, start=-2), parts=Tuple([MultiBinary(2)])),
        Tuple([Discrete(4, start=1), Dict(arm=Box(-1, 2, (2,), np.float64))]),
    ),
    "Masked": (Dict(seen=Box(-1, 1, (2,), np.float32), action_mask=MultiBinary(4)), Discrete(4)),
}


class Weighted(gym.Env):
    """Observes samples of its space for 9 steps; each number of an action is worth something else in each step."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}

    def __init__(self, name, render_mode=None):
        # of its own, because it draws from them
        self.observation_space, self.action_space = copy.deepcopy(SPACES[name])
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        if seed is not None:
            self.observation_space.seed(seed)
        return self._observe(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        if "action_mask" in getattr(self.observation_space, "spaces", {}):
            assert self.allowed[action]
        self.time += 1
        numbers = flatten(self.action_space, action).astype(np.float64)
        worth = float(numbers @ self.np_random.uniform(-1, 1, numbers.shape))
        return self._observe(), worth, False, self.time >= 9, {}

    def _observe(self):
        seen = self.observation_space.sample()
        if isinstance(seen, dict) and "action_mask" in seen:
            seen["action_mask"][self.np_random.integers(4)] = 1
            self.allowed = seen["action_mask"]
        return seen

    def render(self):
        return np.zeros((16, 16, 3), np.uint8)


for each in SPACES:
    gym.register(f"tests/Weighted{each}-v0", Weighted, kwargs={"name": each})
