"""What an environment is given of what a policy drew, over all kinds of Box."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, Tuple
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchrl.envs.utils import ExplorationType, set_exploration_type

from rlpipe.errors import ConfigError, TrainingError
from rlpipe.modules import GaussianActor
from rlpipe.pipelines.agents.load import trained
from rlpipe.pipelines.envs import EnvConfig, make_env
from rlpipe.pipelines.envs.actions import ActionCast
from rlpipe.pipelines.envs.specs import action_spec
from rlpipe.pipelines.front_door import run_recipe
from rlpipe.pipelines.training.failures import weights_of

LARGEST = float(np.finfo(np.float32).max)
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool")
FLOATS = ("float16", "float32", "float64")


@st.composite
def bounds(draw, dtype):
    """Lowest and highest of one dimension, some of them equal, missing, huge, tiny or far from 0."""
    if np.dtype(dtype).kind in "iub":
        limits = (0, 1) if dtype == "bool" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        first = draw(st.integers(int(limits[0]), int(limits[1])))
        width = draw(st.sampled_from([0, 1, 10, 2**64]))
        return first, min(first + width, int(limits[1]))
    number = st.floats(width=int(dtype[-2:]), allow_nan=False, allow_infinity=False)
    first = draw(st.one_of(number, st.sampled_from([0.0, 1.0, 1e4, -1.0])))
    kind = draw(st.sampled_from(["any", "equal", "near", "below", "above", "open"]))
    with np.errstate(over="ignore"):
        near = float(np.nextafter(np.dtype(dtype).type(first), np.dtype(dtype).type(np.inf)))
    second = {"any": draw(number), "equal": first, "near": near if np.isfinite(near) else first}.get(kind, first)
    low, high = sorted((first, second))
    return (-np.inf if kind in ("below", "open") else low, np.inf if kind in ("above", "open") else high)


@st.composite
def boxes(draw):
    dtype = draw(st.sampled_from(INTEGERS + FLOATS))
    pairs = draw(st.lists(bounds(dtype), min_size=1, max_size=3))
    shape = draw(st.sampled_from([(len(pairs),), (1, len(pairs))]))
    low, high = (np.array(each, dtype=dtype).reshape(shape) for each in zip(*pairs, strict=True))
    return Box(low, high, shape, np.dtype(dtype))


@settings(max_examples=60, deadline=None)
@given(boxes(), st.floats(-3, 3, width=32), st.sampled_from([False, True]))
def test_what_a_policy_draws_is_an_action_of_any_box(space, mean, from_network):
    actor = GaussianActor(
        nn.Linear(2, (1 + from_network) * int(np.prod(space.shape))),
        action_spec(space, torch.Size([64])),
        torch.Generator().manual_seed(0),
        state_dependent_std=from_network,
    )
    nn.init.constant_(actor.network.bias, mean)
    cast, observation = ActionCast(space), torch.randn(64, 2, generator=torch.Generator().manual_seed(1))
    for kind in (ExplorationType.RANDOM, ExplorationType.DETERMINISTIC):
        with set_exploration_type(kind), torch.no_grad():
            action, log_prob = actor.compute(observation)
        given = cast(action.numpy())
        assert given.dtype == space.dtype
        assert all(space.contains(each) for each in given)
        distribution = actor.distribution(observation)
        # what learning finds again is what acting said
        torch.testing.assert_close(distribution.log_prob(action), log_prob, rtol=0, atol=0)
        (distribution.log_prob(action).sum() + distribution.entropy().sum()).backward()
        assert log_prob.isfinite().all()
        assert all(each.grad.isfinite().all() for each in actor.parameters())
        actor.zero_grad()


@settings(max_examples=60, deadline=None)
@given(boxes())
def test_actions_beyond_the_bounds_are_clipped_and_not_written_into(space):
    for action in (np.full(space.shape, 1e38), np.full(space.shape, -1e38), np.full(space.shape, 0.0, np.float32)):
        kept = action.copy()
        given = ActionCast(space)(action[None])[0]
        assert space.contains(given)
        given.fill(1)
        np.testing.assert_array_equal(action, kept)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_each_integer_is_as_likely_as_any_other_and_stands_for_itself(dtype):
    low, high = {"bool": (0, 1)}.get(dtype, (100, 110) if dtype.startswith("u") else (-7, 3))
    space = Box(low, high, (1,), np.dtype(dtype))
    cast, count = ActionCast(space), high - low + 1
    grid = low + (high - low) * (np.arange(1000 * count) + 0.5)[:, None] / (1000 * count)
    values, times = np.unique(cast(grid.astype(np.float32)), return_counts=True)
    np.testing.assert_array_equal(values, np.arange(low, high + 1))
    # float32 may put a number at the edge of a part into the next
    assert abs(times - 1000).max() <= 2
    for whole in (np.arange(low, high + 1), np.arange(low, high + 1, dtype=np.float64)):
        np.testing.assert_array_equal(cast(whole[:, None])[:, 0], whole)


def test_integers_far_from_0_are_all_reached():
    space = Box(10**9, 10**9 + 10, (1,), np.int64)
    actor = GaussianActor(nn.Linear(1, 1), action_spec(space, torch.Size([1])), torch.Generator().manual_seed(0))
    with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
        action = actor.compute(torch.zeros(4000, 1))[0].numpy()
    assert set(ActionCast(space)(action)[:, 0].tolist()) == set(range(10**9, 10**9 + 11))


@pytest.mark.parametrize("dtype", ["int64", "uint64"])
def test_a_range_of_all_words_reaches_both_ends(dtype):
    limits = np.iinfo(dtype)
    cast = ActionCast(Box(limits.min, limits.max, (1,), np.dtype(dtype)))
    ends = np.array([[float(limits.min)], [float(limits.max)], [0.0]])
    assert cast(ends)[:, 0].tolist() == [limits.min, limits.max, 0]


def test_an_action_of_a_float64_box_stays_below_its_bound():
    # as float32 a tenth is above a tenth
    space = Box(0.0, 0.1, (1,), np.float64)
    assert float(np.float32(0.1)) > 0.1
    assert ActionCast(space)(np.full((1, 1), 0.1, np.float32)).tolist() == [[0.1]]


def test_a_discrete_action_begins_where_its_space_does():
    assert ActionCast(Discrete(3, start=-1))(np.array([0, 2])).tolist() == [-1, 1]


def test_other_spaces_and_numbers_that_are_none_are_refused():
    with pytest.raises(ConfigError, match="the action space is Tuple"):
        ActionCast(Tuple([Discrete(2)]))
    with pytest.raises(TrainingError, match="action is NaN, expected numbers from"):
        ActionCast(Box(0, 3, (1,), np.int64))(np.array([[np.nan]]))


class Strict(gym.Env):
    """Refuses an action that is not in its space; the reward is highest for the highest."""

    observation_space = Box(-1, 1, (2,), np.float32)

    def __init__(self, space):
        self.action_space = space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return np.ones(2, np.float32), {}

    def step(self, action):
        # Gymnasium itself hands out one number as a scalar, where it wants an array
        assert self.action_space.contains(np.asarray(action)), action
        self.time += 1
        return np.ones(2, np.float32), float(np.max(action) == self.action_space.high.max()), False, self.time > 8, {}


SPACES = {
    "integers": Box(0, 1, (1,), np.int8),
    "no dimension": Box(-1, 1, (), np.float32),
    "equal": Box(np.array([-1.0, 2.0]), np.array([1.0, 2.0]), dtype=np.float64),
    "open": Box(np.array([-np.inf, 0.0]), np.array([np.inf, np.inf]), dtype=np.float64),
    "huge": Box(-LARGEST, LARGEST, (1,), np.float32),
}
for name, space in {**SPACES, "many": Box(-10, 10, (1,), np.int64)}.items():
    gym.register(f"tests/Strict-{name.replace(' ', '-')}-v0", lambda space=space, **_: Strict(space))


@pytest.mark.parametrize("name", SPACES)
def test_environments_take_what_policies_and_chance_draw(name):
    env = make_env(EnvConfig(f"tests/Strict-{name.replace(' ', '-')}-v0", 2), seed=0)
    actor = GaussianActor(nn.Linear(2, int(np.prod(SPACES[name].shape))), env.action_spec)
    try:
        for policy in (actor, None):
            with set_exploration_type(ExplorationType.RANDOM):
                drawn = env.rollout(20, policy, break_when_any_done=False)["action"]
            assert drawn.isfinite().all()
            assert drawn.unique().numel() > 15
    finally:
        env.close()


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("recipe", ["ppo", "td3"])
def test_recipes_train_on_any_box(tmp_path, recipe, name):
    options = {"num_envs": 4, "rollout_steps": 16, "minibatch_size": 32, "total_frames": 128, "final_eval_episodes": 2}
    options |= {"warmup_frames": 64, "updates": 2, "hidden": (8,)} if recipe == "td3" else {}
    env_id = f"tests/Strict-{name.replace(' ', '-')}-v0"
    summary = run_recipe(recipe, env_id=env_id, folder=tmp_path / "run", loggers=(), **options)
    assert 0 <= summary["evaluation"]["mean"] <= 9
    # bounds are no weights: however large they are, nothing has diverged
    with trained(tmp_path / "run") as agent:
        assert not {"low", "high"} & {each.rpartition(".")[2] for each in weights_of(agent.policy)}


def test_the_best_integer_is_found(tmp_path):
    summary = run_recipe(
        "ppo",
        env_id="tests/Strict-many-v0",
        total_frames=6_000,
        final_eval_episodes=5,
        folder=tmp_path / "run",
        loggers=(),
    )
    assert summary["evaluation"]["mean"] == 9.0
