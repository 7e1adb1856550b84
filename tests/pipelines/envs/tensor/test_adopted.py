"""TorchRL's own environments, batched or not, with rlpipe's counters, limits and interface."""

import gymnasium as gym
import pytest
import torch
from tensor_envs import SavedWalk, Walk, one_cartpole, one_hot_cartpole
from tensordict import TensorDict
from torchrl.data import Categorical, Choice, Composite, MultiCategorical, OneHot, Unbounded
from torchrl.envs import Compose, RewardSum, SerialEnv, StepCounter, TransformedEnv
from torchrl.envs.utils import check_env_specs

from rlpipe.errors import ConfigError
from rlpipe.modules import MLP, CategoricalActor
from rlpipe.pipelines.collectors.evaluation import evaluate
from rlpipe.pipelines.envs import EnvConfig, OneHotObservation, make_env
from rlpipe.pipelines.envs.tensor.adopted import AdoptedEnv, space_of


def make_walk(num_envs):
    return Walk(num_envs)


def step_through(env, steps=30):
    """Steps to the right, and the roots and `next` entries of each."""
    env.restart()
    for _ in range(steps):
        root = dict(env.root)
        yield root, env.advance(torch.ones(env.batch_size, dtype=torch.int64))


@pytest.mark.parametrize("given", [Walk, Walk(3), one_cartpole, "tensor_envs:Walk", make_walk])
def test_each_kind_becomes_so_many_environments(given):
    env = make_env(EnvConfig(given, 3), seed=0)
    check_env_specs(env)
    assert isinstance(env.base_env, AdoptedEnv)
    assert env.batch_size == (3,)
    step = env.rand_step(env.reset())["next"]
    for key in ("done", "terminated", "truncated", "reward", "step_count", "episode_reward"):
        assert step[key].shape == (3, 1)
    assert (step["step_count"].dtype, step["episode_reward"].dtype) == (torch.int64, torch.float32)
    assert not env.base_env.spaces.keys() & {"step_count", "episode_reward"}
    env.close()


def test_a_batch_is_stepped_and_reset_by_itself():
    env = make_env(EnvConfig(Walk, 4), seed=0).base_env
    ended = 0
    for root, after in step_through(env):
        done = after["done"]
        assert torch.equal(done, after["terminated"])
        assert not after["truncated"].any()
        torch.testing.assert_close(after["observation"], root["observation"] + 0.3)
        assert torch.equal(env.root["observation"][~done], after["observation"][~done])
        assert (env.root["observation"][done].abs() <= 0.5).all()
        assert torch.equal(env.root["step_count"], (after["step_count"]).masked_fill(done, 0))
        torch.testing.assert_close(after["episode_reward"], root["episode_reward"] + after["reward"])
        ended += int(done.sum())
    assert ended > 10


def test_what_it_reuses_is_copied():
    env = make_env(EnvConfig(Walk, 4), seed=0).base_env
    kept = [(each, each.clone()) for pair in step_through(env) for entries in pair for each in entries.values()]
    assert all(torch.equal(each, copy) for each, copy in kept)


def test_a_limit_truncates_and_resets_what_has_none():
    env = make_env(EnvConfig(Walk, 4, max_episode_steps=2), seed=0).base_env
    for number, (_, after) in enumerate(step_through(env, 10)):
        assert torch.equal(after["truncated"], after["step_count"] == 2)
        assert torch.equal(after["done"], after["terminated"] | after["truncated"])
        assert number == 0 or after["step_count"].max() <= 2
        assert (env.root["observation"][after["done"]].abs() <= 0.5).all()


def test_counters_of_its_own_are_as_ours():
    def counted():
        return TransformedEnv(SerialEnv(2, one_cartpole), Compose(StepCounter(), RewardSum()))

    one, other = (make_env(EnvConfig(each, 2), seed=3).base_env for each in (counted, one_cartpole))
    for (_, after), (_, plain) in zip(step_through(one), step_through(other), strict=True):
        assert after.keys() == plain.keys()
        assert all(torch.equal(after[key], plain[key]) for key in plain)
    for each in (one, other):
        each.close()


def test_seeds_repeat_it():
    one, same, other = (make_env(EnvConfig(Walk, 2), seed=seed).base_env for seed in (1, 1, 2))
    ends = [list(step_through(env, 9))[-1][1]["observation"] for env in (one, same, other)]
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def test_one_with_a_state_is_captured():
    env, other = (make_env(EnvConfig(SavedWalk, 3), seed=seed).base_env for seed in (0, 5))
    assert env.can_capture()
    assert not make_env(EnvConfig(Walk, 3)).base_env.can_capture()
    list(step_through(env, 5))
    other.restart()
    state = env.get_state()
    other.set_state({**state, "root": {key: each.clone() for key, each in state["root"].items()}})
    for _ in range(12):
        one, two = (each.advance(torch.ones(3, dtype=torch.int64)) for each in (env, other))
        assert all(torch.equal(one[key], two[key]) for key in one)
        assert torch.equal(env.root["observation"], other.root["observation"])


@pytest.mark.parametrize(("given", "opened"), [(Walk, 1), (Walk(6), 6), (one_cartpole, 1)])
def test_evaluations_count_whole_episodes_and_successes(given, opened):
    config = EnvConfig(given, opened, max_episode_steps=20)
    env = make_env(config)
    actor = CategoricalActor(MLP(env.observation_spec["observation"].shape[-1], 2, (8,)), env.action_spec)
    seen = evaluate(actor, config, episodes=5, seed=0)
    assert seen == evaluate(actor, config, episodes=5, seed=0)
    assert len(seen.returns) == 5
    if given is not one_cartpole:
        assert set(seen.successes) <= {0.0, 1.0}
        assert len(seen.successes) == 5


def test_the_users_instance_is_left_alone():
    mine = Walk(2)
    mine.set_seed(0)
    before = mine.reset()["observation"].clone()
    env = make_env(EnvConfig(mine, 2), seed=1).base_env
    list(step_through(env, 5))
    assert torch.equal(mine.place, before)


class TwoKeys(Walk):
    def __init__(self, num_envs=2):
        super().__init__(num_envs)
        self.action_spec = Composite(left=self.action_spec, right=self.action_spec.clone(), shape=(num_envs,))


class Flat(Walk):
    def __init__(self, num_envs=2):
        super().__init__(num_envs)
        self.reward_spec = Unbounded((num_envs, 2))


class Fails(Walk):
    def __init__(self):
        raise ValueError("no licence\nsee above")


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (one_hot_cartpole, {}, "takes one-hot actions; make it with categorical_action_encoding=True"),
        (Walk(3), {}, r"num_envs is 2, and Walk has batch size \[3\]; set num_envs to 3, or let it take an argument"),
        (one_cartpole(), {}, "num_envs is 2, and GymEnv is one environment; give the function that makes it"),
        (lambda: SerialEnv(2, Walk), {}, r"has batch size \[2, 4\]; rlpipe takes one dimension, the environments"),
        (TwoKeys, {}, "TwoKeys has the actions left, right; rlpipe takes action: one agent for each environment"),
        (Flat, {}, r"Flat has a reward of shape \[2, 2\]; expected \[2, 1\]"),
        (lambda num_envs: num_envs, {}, "which made a int; expected an environment of TorchRL"),
        (Fails, {}, "env-id '.*Fails' cannot be made: ValueError: no licence$"),
        (Walk, {"kwargs": {"goals": 2.0}}, "Walk takes no argument 'goals'; it takes .*; did you mean goal"),
        (Walk(2), {"kwargs": {"goal": 2.0}}, "env_kwargs are goal, and env_id is made already: a Walk"),
        (Walk, {"frame_stack": 2}, "Walk is a TorchRL environment, which takes no wrappers of Gymnasium"),
        (
            Walk,
            {"backend": "sync"},
            "Walk is a TorchRL environment: it has only backend 'auto', and rlpipe cannot draw",
        ),
        (Walk, {"from_pixels": True}, "Walk is a TorchRL environment: it has only backend 'auto', and rlpipe cannot"),
        ("tensor_envs:Wolk", {}, "the module 'tensor_envs' registers no 'Wolk'"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(given, options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        make_env(EnvConfig(given, 2, **options))
    assert not caught.value.args[0].startswith("<")
    assert "\n" not in str(caught.value)


class Closes(Walk):
    closes = 0

    def close(self, **options):
        self.closes += 1


@pytest.mark.parametrize(("num_envs", "transforms"), [(3, []), (4, [OneHotObservation()])])
def test_what_is_refused_is_closed(num_envs, transforms):
    env = Closes()
    with pytest.raises(ConfigError):
        make_env(EnvConfig(lambda batch_size: env, num_envs), transforms=transforms)
    assert env.closes


def test_every_spec_that_rlpipe_takes_is_a_space():
    for spec, space in (
        (Categorical(3), gym.spaces.Discrete(3)),
        (Categorical(3, (2,)), gym.spaces.MultiDiscrete([3, 3])),
        (MultiCategorical([2, 3]), gym.spaces.MultiDiscrete([2, 3])),
        (OneHot(3), gym.spaces.MultiBinary([3])),
        (Unbounded((2,)), gym.spaces.Box(-torch.inf, torch.inf, (2,))),
        (Unbounded((2,), dtype=torch.uint8), gym.spaces.Box(0, 255, (2,), "uint8")),
    ):
        assert space_of(spec, "observation") == space
    with pytest.raises(ConfigError, match=r"the agent.place is a Choice of TorchRL's, which rlpipe does not take"):
        space_of(Choice([Unbounded(1)]), ("agent", "place"))


def test_arguments_reach_it():
    assert make_env(EnvConfig(Walk, 2, kwargs={"goal": 7.0})).base_env._inner.goal == 7.0


def test_nested_observations_keep_their_keys():
    class Nested(Walk):
        def __init__(self, num_envs=2):
            super().__init__(num_envs)
            self.observation_spec = Composite(
                robot=Composite(place=Unbounded((num_envs, 2)), shape=(num_envs,)), shape=(num_envs,)
            )

        def _told(self, *entries):
            told = super()._told(*entries)
            place = told.pop("observation")
            return told.exclude("is_success").set("robot", TensorDict({"place": place}, self.batch_size))

    env = make_env(EnvConfig(Nested, 2), seed=0)
    check_env_specs(env)
    assert list(env.base_env.spaces) == [("robot", "place")]
    assert env.rollout(3, break_when_any_done=False)["next", "robot", "place"].shape == (2, 3, 2)
