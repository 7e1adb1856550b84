"""Frame stack, action repeat and remaining time: what they return, and that nothing of it is shared or forgotten."""

import copy

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, Graph, MultiBinary, MultiDiscrete, Tuple
from sized import LIMIT, Sized

from rlpipe.errors import ConfigError
from rlpipe.pipelines.envs import EnvConfig, make_env
from rlpipe.pipelines.envs.wrappers.action_repeat import ActionRepeat
from rlpipe.pipelines.envs.wrappers.frame_stack import FrameStack
from rlpipe.pipelines.envs.wrappers.remaining_time import RemainingTime


class Sampled(gym.Env):
    """Observes anything of its space."""

    action_space = Discrete(2)

    def __init__(self, space):
        self.observation_space = copy.deepcopy(space)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 1.0, False, False, {}


SPACES = {
    "number": (Box(-1.0, 1.0, ()), (3,)),
    "vector": (Box(-1.0, 1.0, (2,), np.float64), (6,)),
    "grey": (Box(0, 255, (8, 8), np.uint8), (3, 8, 8)),
    "color": (Box(0, 255, (8, 8, 3), np.uint8), (3, 8, 8, 3)),
    "stacked": (Box(0, 255, (2, 3, 8, 8), np.uint8), (6, 3, 8, 8)),
    "discrete": (Discrete(5, start=2), (3,)),
    "several": (MultiDiscrete([2, 3]), (6,)),
    "binary": (MultiBinary(4), (12,)),
}


@pytest.mark.parametrize(("space", "shape"), SPACES.values(), ids=SPACES)
def test_the_last_observations_are_stacked_oldest_first(space, shape):
    env, plain = FrameStack(Sampled(space), 3), Sampled(space)
    first = plain.reset(seed=1)[0]
    seen, stacked = [first] * 3, env.reset(seed=1)[0]
    for _ in range(5):
        assert stacked.shape == env.observation_space.shape == shape
        assert stacked in env.observation_space
        np.testing.assert_array_equal(stacked, np.concatenate([np.atleast_1d(each) for each in seen]).reshape(shape))
        seen = [*seen[1:], plain.step(0)[0]]
        stacked = env.step(0)[0]


def test_entries_are_stacked_one_by_one_and_masks_are_not():
    inner = Dict(camera=Box(0, 255, (8, 8), np.uint8), mode=Discrete(2))
    space = Dict(
        inner=inner, pair=Tuple((Box(-1, 1, (2,)), MultiBinary(2))), action_mask=MultiBinary(2), lives=Discrete(4)
    )
    env = FrameStack(Sampled(space), 2)
    observation = env.reset(seed=0)[0]
    for _ in range(3):
        assert observation in env.observation_space
        observation = env.step(0)[0]
    assert observation["inner"]["camera"].shape == (2, 8, 8)
    assert observation["pair"][1].shape == (4,)
    assert env.observation_space["action_mask"] == MultiBinary(2)
    assert env.observation_space["lives"] == Discrete(4)


def test_a_stack_holds_copies_of_arrays_that_are_reused():
    env = make_env(EnvConfig(Sized, frame_stack=3, kwargs={"size": 1}), seed=0)
    steps = env.rollout(8, break_when_any_done=False)["observation"][0]
    # an episode of six steps, then the next begins
    assert steps[:, 0].tolist() == [0, 0, 0, 1, 2, 3, 0, 0]
    assert steps[:, 2].tolist() == [0, 1, 2, 3, 4, 5, 0, 1]
    env.close()


def test_what_cannot_be_stacked():
    with pytest.raises(ConfigError, match="^frame_stack cannot stack the observation space Graph"):
        FrameStack(Sampled(Graph(Box(-1, 1, (2,)), None)), 2)


def test_repeated_actions_sum_rewards_until_the_episode_ends():
    env = ActionRepeat(Sized(1, reward=np.ones(1)), 4)
    env.reset(seed=0)
    observation, reward, terminated, *_ = env.step(0)
    assert (observation.tolist(), float(reward[0]), terminated) == ([4.0], 4.0, False)
    observation, reward, terminated, *_ = env.step(0)
    assert (observation.tolist(), float(reward[0]), terminated) == ([LIMIT], 2.0, True)


def test_a_time_limit_counts_steps_of_the_environment():
    env = make_env(EnvConfig("tests/Sized-v0", action_repeat=3, time_aware=True), seed=0)
    steps = env.rollout(4, break_when_any_done=False)
    assert steps["next", "truncated"].flatten().tolist() == [False, True, False, True]
    assert steps["next", "reward"].flatten().tolist() == [3, 1, 3, 1]
    assert steps["next", "observation"][0, :, -1].tolist() == [0.25, 0, 0.25, 0]
    env.close()


TIMES = [1.0, 0.75, 0.5, 0.25, 1.0, 0.75]


@pytest.mark.parametrize("backend", ["auto", "async"])
def test_a_vector_gets_the_time_that_is_left(backend):
    env = make_env(EnvConfig("tests/Sized-v0", time_aware=True, backend=backend, num_envs=2), seed=0)
    steps = env.rollout(6, break_when_any_done=False)
    assert steps["observation"].shape == (2, 6, 3)
    assert steps["observation"][0, :, -1].tolist() == TIMES
    assert steps["next", "observation"][0, 3].tolist() == [4, 4, 0]
    assert (env.observation_spec["observation"].low[0].tolist()[-1], steps["observation"].dtype) == (0, torch.float32)
    env.close()


@pytest.mark.parametrize(
    ("space", "keys"),
    [
        (SPACES["grey"][0], ["observation", "time"]),
        (SPACES["discrete"][0], ["observation", "time"]),
        (Dict(a=Box(-1, 1, (2,)), action_mask=MultiBinary(2)), ["a", "action_mask", "time"]),
        (Tuple((Box(-1, 1, (2,)), Discrete(2))), ["0", "1", "2"]),
    ],
)
def test_other_observations_get_an_entry(space, keys):
    env = make_env(EnvConfig(lambda: Sampled(space), time_aware=True, frame_stack=2, max_episode_steps=4), seed=0)
    steps = env.rollout(6, break_when_any_done=False)
    assert sorted(set(steps.keys()) & {"observation", "time", "a", "action_mask", "0", "1", "2"}) == keys
    assert steps[keys[-1]].flatten().tolist() == TIMES
    env.close()


def test_of_several_time_limits_the_shortest_counts():
    wrappers = ('gymnasium.wrappers:TimeLimit {"max_episode_steps": 2}',)
    env = make_env(EnvConfig("tests/Sized-v0", time_aware=True, wrappers=wrappers), seed=0)
    assert env.rollout(4, break_when_any_done=False)["observation"][0, :, -1].tolist() == [1, 0.5, 1, 0.5]
    env.close()


def test_pixels_and_their_time():
    env = make_env(EnvConfig("tests/Sized-v0", time_aware=True, from_pixels=True, action_repeat=2), seed=0)
    steps = env.rollout(3, break_when_any_done=False)
    assert steps["observation"][0, :, -1, 0, 0].tolist() == [0, 2, 0]
    assert steps["time"].flatten().tolist() == [1, 0.5, 1]
    env.close()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sized(3), "^time_aware is True, and it has no time limit; set one with --max-episode-steps"),
        (
            lambda: gym.wrappers.TimeLimit(Sampled(Dict(time=Box(0, 1, ()))), 3),
            "^time_aware adds an entry 'time' to the observation, and it has one already",
        ),
    ],
)
def test_time_that_cannot_be_observed(make, message):
    with pytest.raises(ConfigError, match=message):
        RemainingTime(make(), "it")


@pytest.mark.parametrize("options", [{"frame_stack": 3}, {"action_repeat": 2}, {"time_aware": True}])
def test_a_checkpoint_continues_in_the_middle_of_an_episode(options):
    config = EnvConfig("tests/Sized-v0", num_envs=2, **options)
    env, other = make_env(config, seed=0), make_env(config, seed=9)
    for each, steps in ((env, 3), (other, 1)):
        each.reset()
        for _ in range(steps):
            each.base_env.advance(np.zeros(2, np.int64))
    assert env.base_env.can_capture()
    other.base_env.set_state(env.base_env.get_state())
    for _ in range(6):
        one, two = (each.base_env.advance(np.zeros(2, np.int64)) for each in (env, other))
        for key, array in one.items():
            np.testing.assert_array_equal(array, two[key], err_msg=str(key))
    env.close()
    other.close()
