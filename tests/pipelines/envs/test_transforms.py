"""Bins by hand, and numbers between bounds."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torchrl.data import Categorical
from torchrl.envs.utils import check_env_specs

from rlpipe.errors import ConfigError
from rlpipe.modules import encoder
from rlpipe.pipelines.envs import BinObservation, EnvConfig, make_env


@pytest.mark.parametrize(
    ("observation", "index"),
    [
        # two bins of width 1 from -1 to 1, three features: the first counts 4, the second 2
        ([-0.5, -0.5, -0.5], 0),
        ([0.5, -0.5, -0.5], 4),
        ([-0.5, 0.5, -0.5], 2),
        ([-0.5, -0.5, 0.5], 1),
        # a limit belongs to the bin above it, and what is beyond to the outermost
        ([0.0, -1.0, 0.99], 5),
        ([9.0, -9.0, 1.0], 5),
        ([np.inf, -np.inf, np.inf], 5),
    ],
)
def test_bins_by_hand(observation, index):
    transform = BinObservation(2, [-1.0] * 3, [1.0] * 3)
    transform._dims = 1
    for shape in ((), (4,), (2, 5)):
        observed = torch.tensor(observation).expand(*shape, 3)
        assert transform._apply_transform(observed).tolist() == torch.full(shape, index).tolist()


@pytest.mark.parametrize("num_envs", [1, 3])
def test_binned_cartpole_is_a_discrete_environment(num_envs):
    bins = BinObservation(6, [-2.4, -3.0, -0.418, -2.0], [2.4, 3.0, 0.418, 2.0])
    env = make_env(EnvConfig("CartPole-v0", num_envs), seed=0, transforms=[bins])
    check_env_specs(env)
    spec = env.observation_spec["observation"]
    assert isinstance(spec, Categorical)
    assert (spec.space.n, spec.shape) == (6**4, (num_envs,))
    assert env.reset()["observation"].dtype == torch.int64
    # near the upright middle each feature is in the third or the fourth of six bins
    digits = [int(env.reset()["observation"][0]) // 6**place % 6 for place in range(4)]
    assert set(digits) <= {2, 3}


@pytest.mark.parametrize(
    ("env_id", "low", "high", "message"),
    [
        ("CartPole-v1", [0.0] * 3, [1.0] * 3, "bins are given for 3 features, and the observation is a Box of 4"),
        ("FrozenLake-v1", [0.0], [1.0], "bins are given for 1 features, and the observation is no Box"),
        ("CartPole-v1", [0.0] * 4, [1.0, 1.0, 0.0, 1.0], "each upper limit must be above its lower one"),
        ("CartPole-v1", [0.0] * 4, [1.0] * 3, "each upper limit must be above its lower one"),
    ],
)
def test_bins_that_do_not_fit_are_refused(env_id, low, high, message):
    with pytest.raises(ConfigError, match=message):
        make_env(EnvConfig(env_id), transforms=[BinObservation(5, low, high)])


class Bounds(gym.Env):
    """Observes whole numbers between its bounds."""

    action_space = Discrete(2)

    def __init__(self, space):
        self.observation_space = space

    def out(self):
        return self.np_random.integers(self.observation_space.low, self.observation_space.high + 1)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.out(), {}

    def step(self, action):
        return self.out(), 1.0, False, False, {}


def test_numbers_between_bounds_far_from_0_are_counted_from_the_lower_one():
    low, high = np.array([10**9, 0]), np.array([10**9 + 10, 10])
    gym.register("tests/Between-v0", lambda **_: Bounds(Box(low, high, dtype=np.int64)))
    env = make_env(EnvConfig("tests/Between-v0", 2), seed=0)
    first = encoder(env.observation_spec["observation"])
    seen = env.reset()["observation"]
    assert torch.equal(first(seen), (seen - torch.from_numpy(low)).float())
    env.close()
