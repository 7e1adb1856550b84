"""What `Checked` leaves out, and environments that are refused before they are stepped."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Text

from rlpipe.errors import ConfigError
from rlpipe.pipelines.envs import EnvConfig, make_env

PLACE = Box(-1, 1, (1,), np.float32)


class Tells(gym.Env):
    """Observes more than its space says, in episodes of five steps."""

    action_space = Discrete(2)

    def __init__(self, space):
        self.observation_space, self.is_closed = space, False

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self.out(), {}

    def step(self, action):
        self.time += 1
        return self.out(), 1.0, self.time >= 5, False, {}

    def out(self):
        place = np.zeros(1, np.float32)
        return {"place": place, "nested": {"place": place, "more": None}, "more": {}}

    def close(self):
        self.is_closed = True


def test_an_environment_that_is_refused_is_closed():
    made = []
    with pytest.raises(ConfigError, match="rlpipe takes Box"):
        make_env(EnvConfig(lambda: made.append(Tells(Text(3))) or made[0]))
    assert [each.is_closed for each in made] == [True]


def test_entries_that_are_not_in_the_space_are_left_out():
    env = make_env(EnvConfig(Tells, 2, kwargs={"space": Dict(place=PLACE, nested=Dict(place=PLACE))}), seed=0)
    batch = env.rollout(12, break_when_any_done=False)
    assert batch["next", "terminated"].sum() == 4
    assert batch["next", "nested"].keys() == {"place"}
    env.close()
