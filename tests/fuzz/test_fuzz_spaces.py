"""Random spaces: what Gymnasium samples arrives unchanged, and what policies and chance draw is in the action space."""

import copy

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from hypothesis import given
from hypothesis import strategies as st
from walking import register

from rlpipe.pipelines.algorithms import ppo
from rlpipe.pipelines.build.networks import make_actor, make_trunk
from rlpipe.pipelines.envs import EnvConfig, make_env
from rlpipe.pipelines.envs.entries import WRITTEN, leaves_of

SHAPES = st.lists(st.integers(1, 3), max_size=3).map(tuple)
SOME = st.lists(st.integers(1, 3), min_size=1, max_size=2).map(tuple)
TYPES = [np.float32, np.float64, np.float16, np.uint8, np.int8, np.int16, np.uint16, np.int32, np.int64]
BOUNDS = [(-1.0, 2.0), (0.0, np.inf), (-np.inf, 3.0), (5.0, 5.0), (-np.inf, np.inf)]
NAMES = st.sampled_from(["a", "b", "0", "1", "robot", "observation", "velocity of x", "größe"])


@st.composite
def leaves(draw):
    kind = draw(st.sampled_from([Box, Discrete, MultiDiscrete, MultiBinary]))
    start = draw(st.integers(-3, 3))
    if kind is Discrete:
        return Discrete(draw(st.integers(1, 6)), start=start)
    if kind is MultiBinary:
        return MultiBinary(draw(st.one_of(st.integers(1, 4), SOME)))
    if kind is MultiDiscrete:
        shape = draw(SOME)
        counts = np.array(draw(st.lists(st.integers(1, 5), min_size=9, max_size=9)))[: np.prod(shape)].reshape(shape)
        return MultiDiscrete(counts, start=np.full(shape, start))
    dtype, shape = draw(st.sampled_from(TYPES)), draw(SHAPES)
    if np.dtype(dtype).kind != "f":
        return Box(0, draw(st.integers(1, 100)), shape, dtype)
    return Box(*draw(st.sampled_from(BOUNDS)), shape, dtype)


SPACES = st.recursive(
    leaves(),
    lambda inner: st.one_of(
        st.dictionaries(NAMES, inner, min_size=1, max_size=3).map(Dict),
        st.lists(inner, min_size=1, max_size=3).map(Tuple),
    ),
    max_leaves=4,
)


class Samples(gym.Env):
    """Observes what Gymnasium samples, keeps it, and refuses an action that is not in its space."""

    def __init__(self, observed, acted, made):
        self.observation_space, self.action_space = observed, acted
        made.append(self)
        observed.seed(len(made))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observe(), {}

    def step(self, action):
        assert self.action_space.contains(action), (self.action_space, action)
        self.last = self.observe()
        return self.last, 1.0, False, False, {}

    def observe(self):
        self.seen = self.observation_space.sample()
        return self.seen


# of a Box without dimensions, of which Gymnasium makes a number
@pytest.mark.filterwarnings("ignore:.*Casting input x to numpy array")
@given(SPACES, SPACES)
def test_any_spaces(observed, acted):
    made = []
    # copies, because the spaces of two environments must not share a generator
    env_id = register(lambda **_: Samples(copy.deepcopy(observed), copy.deepcopy(acted), made))
    env = make_env(EnvConfig(env_id, 2), seed=0)
    keys = leaves_of(observed, "observation")
    assert not set(keys) & set(WRITTEN)
    policy = make_policy(env)
    td = env.reset()
    for index in range(2):
        check(env, td, keys, made)
        td = env.rand_action(td) if index % 2 else td.update(policy(td.select(*policy.in_keys)))
        for key in env.action_keys:
            # policies act in float32
            assert env.full_action_spec[key].is_in(td[key].to(env.full_action_spec[key].dtype))
        stepped, td = env.step_and_maybe_reset(td)
        check(env, stepped["next"], keys, made)
    env.close()


def make_policy(env):
    torch.manual_seed(0)
    config = ppo.Config(hidden=(4,))
    return make_actor(config, env, make_trunk(config, env), torch.Generator().manual_seed(1))


def check(env, td, keys, made):
    """Every entry is what its environment observed, counted from 0, and in the spec."""
    assert env.observation_spec.is_in(td.select(*env.observation_spec.keys(True, True)))
    for key, leaf in keys.items():
        start = getattr(leaf.space, "start", 0)
        for row, single in zip(td[key], made[-2:], strict=True):
            expected = leaf.get(single.seen)
            np.testing.assert_array_equal(row.numpy(), np.asarray(expected) - start, err_msg=str(key))
            assert row.shape == np.shape(expected)
