"""What `env_id` may be, with arguments and wrappers; and what it may not be, in one line."""

import copy
import dataclasses
import functools

import gymnasium as gym
import numpy as np
import pytest
import sized
from gymnasium.wrappers import ClipReward, NormalizeObservation, TimeLimit, TransformReward
from sized import Doubled, Sized, Stuck, make_sized

from rlpipe.errors import ConfigError
from rlpipe.pipelines.envs import EnvConfig, make_env
from rlpipe.pipelines.envs.arguments.names import Arguments

USED = Sized(5)
USED.reward = 7.0
KINDS = {
    "class": (Sized, "sized:Sized", 3, 1.0),
    "id": ("tests/Sized-v0", "tests/Sized-v0", 2, 1.0),
    "id in a module": ("sized:tests/Sized-v0", "sized:tests/Sized-v0", 2, 1.0),
    "name of a class": ("sized:Sized", "sized:Sized", 3, 1.0),
    "name of a function": ("sized:make_sized", "sized:make_sized", 4, 1.0),
    "function": (make_sized, "sized:make_sized", 4, 1.0),
    "lambda": (lambda: Sized(5), "<lambda>", 5, 1.0),
    "partial": (functools.partial(make_sized, size=6), "sized:make_sized", 6, 1.0),
    "partial with a position": (functools.partial(Sized, 7), "<partial>", 7, 1.0),
    "spec": (gym.spec("tests/Sized-v0"), "tests/Sized-v0", 2, 1.0),
    "instance": (USED, "<Sized instance>", 5, 7.0),
    "wrapped instance": (TimeLimit(Sized(2), 3), "<Sized instance>", 2, 1.0),
}


@pytest.mark.parametrize(("given", "name", "size", "reward"), KINDS.values(), ids=KINDS)
def test_what_an_environment_may_be(given, name, size, reward):
    config = EnvConfig(given, num_envs=2)
    assert config.env_id == name
    env = make_env(config, seed=0)
    assert env.observation_spec["observation"].shape == (2, size)
    assert env.rand_step(env.reset())["next", "reward"].flatten().tolist() == [reward] * 2
    one, two = (each.unwrapped for each in env.base_env.envs.envs)
    assert len({id(each) for each in (one, two, USED)}) == 3
    env.close()


@pytest.mark.parametrize("given", [lambda: Sized(5), USED], ids=["lambda", "instance"])
def test_objects_reach_worker_processes(given):
    env = make_env(EnvConfig(given, num_envs=2, backend="async", frame_stack=2), seed=0)
    assert env.rand_step(env.reset())["next", "observation"].shape == (2, 10)
    env.close()


def test_an_instance_that_is_used_later_does_not_change_the_copies():
    own = Sized(1)
    config = EnvConfig(own)
    own.reward = 100.0
    env = make_env(config, seed=0)
    assert env.rand_step(env.reset())["next", "reward"].item() == 1
    env.close()


def test_an_instance_that_cannot_be_copied_is_made_from_its_spec():
    gym.register("tests/Stuck-v0", Stuck, kwargs={"size": 4})
    env = make_env(EnvConfig(gym.make("tests/Stuck-v0"), num_envs=2), seed=0)
    assert env.observation_spec["observation"].shape == (2, 4)
    env.close()
    del gym.registry["tests/Stuck-v0"]
    with pytest.raises(ConfigError, match=r"Stuck that cannot be copied .* 'socket' object\); give the function"):
        EnvConfig(Stuck())


WRAPPERS = {
    "class": ((Doubled,), 2.0),
    "name": (("sized:Doubled",), 2.0),
    "in order": (("sized:Doubled", 'gymnasium.wrappers:ClipReward {"max_reward": 1.5}'), 1.5),
    "in the other order": (('gymnasium.wrappers:ClipReward {"max_reward": 0.5}', "sized:Doubled"), 1.0),
    "pair": (((Doubled, {"factor": 3}),), 3.0),
    "named pair": ((("sized:Doubled", {"factor": 3}),), 3.0),
    "partial": ((functools.partial(ClipReward, max_reward=0.25),), 0.25),
    "function": ((lambda env: TransformReward(env, lambda reward: 5 * reward),), 5.0),
    "function as argument": (((TransformReward, {"func": lambda reward: reward + 1}),), 2.0),
}


@pytest.mark.parametrize(("wrappers", "reward"), WRAPPERS.values(), ids=WRAPPERS)
def test_wrappers(wrappers, reward):
    config = EnvConfig("CartPole-v1", wrappers=wrappers)
    assert all(isinstance(each, str) for each in config.wrappers)
    env = make_env(config, seed=0)
    assert env.rand_step(env.reset())["next", "reward"].item() == reward
    env.close()


@pytest.mark.parametrize(
    ("config", "backend"),
    [
        ({"kwargs": {"sutton_barto_reward": True}}, "SameStepCartPole"),
        ({"frame_stack": 2}, "SyncEnvs"),
        ({"action_repeat": 2}, "SyncEnvs"),
        ({"wrappers": (Doubled,)}, "SyncEnvs"),
        ({"env_id": "rlpipe/CartPoleInstances-v0"}, "InstanceCartPoleVector"),
        ({"env_id": "rlpipe/CartPoleInstances-v0", "kwargs": {"blind": True}}, "SyncEnvs"),
    ],
)
def test_an_implementation_of_its_own_is_used_only_if_it_takes_the_arguments(config, backend):
    env = make_env(EnvConfig(**{"env_id": "CartPole-v1", **config}), seed=0)
    assert type(env.base_env.envs).__name__ == backend
    if "sutton_barto_reward" in config.get("kwargs", {}):
        assert env.rand_step(env.reset())["next", "reward"].item() == 0
    env.close()


def test_each_environment_gets_its_own_copy_of_the_arguments():
    notes = ["mine"]
    config = EnvConfig(Sized, num_envs=2, kwargs={"notes": notes})
    notes.append("later")
    for _ in range(2):
        env = make_env(config, seed=0)
        assert [each.unwrapped.notes for each in env.base_env.envs.envs] == [["mine", "made"]] * 2
        env.close()
    assert config.kwargs == {"notes": ["mine"]}


def test_arguments_cannot_be_changed_and_compare_by_value():
    kwargs = Arguments({"size": np.int64(3), "goal": np.ones(2), "map": {"a": [np.float32(0.5)]}})
    assert kwargs == {"size": 3, "goal": "<not in config.json: ndarray>", "map": {"a": [0.5]}}
    assert type(kwargs["size"]) is int
    assert kwargs.given()["goal"].tolist() == [1, 1]
    assert kwargs.given()["goal"] is not kwargs.given()["goal"]
    assert kwargs.unwritten() == ["goal"]
    one = EnvConfig("CartPole-v1", kwargs=kwargs)
    assert one == dataclasses.replace(one) == copy.deepcopy(one)
    assert hash(one) == hash(dataclasses.replace(one))
    assert one != dataclasses.replace(one, kwargs={})
    assert EnvConfig("CartPole-v1", kwargs={"a": 1}) == EnvConfig("CartPole-v1", kwargs={"a": 1})
    for change in (lambda: kwargs.update(a=1), lambda: kwargs.__setitem__("a", 1), kwargs.clear):
        with pytest.raises(TypeError, match="cannot be changed"):
            change()


REFUSED = {
    "no environment": (3, {}, "^env_id is 3; expected an id of Gymnasium, module:name, or the class"),
    "another class": (int, {}, "^env_id is <class 'int'>; expected an id"),
    "no function": ("sized:LIMIT", {}, "^env-id 'sized:LIMIT' is 6; expected an id"),
    "misspelt": ("sized:make_size", {}, "registers no 'make_size'; it registers tests/Sized-v0"),
    "vector": (sized.make_several, {}, "what it makes is a vector environment; expected a single one"),
    "vector instance": (gym.make_vec("CartPole-v1", 2), {}, "which is a vector environment; expected a single one"),
    "none": (sized.makes_none, {}, "^env-id is 'sized:makes_none', which made None, as a function without a return"),
    "raises": (sized.breaks, {}, "^env-id 'sized:breaks' cannot be made: RuntimeError: no licence"),
    "needs an argument": (sized.needs, {}, "^env-kwargs: sized:needs needs an argument 'size', which is not given"),
    "same instance": (lambda env=USED: env, {}, "gives the same object each time it is made, but 2 separate ones"),
    "unknown argument": (Sized, {"kwargs": {"sise": 3}}, "takes no argument 'sise'; it takes size"),
    "of an id": (
        "FrozenLake-v1",
        {"kwargs": {"map": 3}},
        "^env-kwargs: FrozenLake-v1 takes no argument 'map'; it takes desc, map_name, is_slippery",
    ),
    "of its base": (
        "HalfCheetah-v5",
        {"kwargs": {"camera": 3}},
        "takes no argument 'camera'; it takes xml_file",
    ),
    "of an instance": (USED, {"kwargs": {"size": 3}}, "^env_kwargs are size, and env_id is made already: a Sized"),
    "render_mode": (Sized, {"kwargs": {"render_mode": "rgb_array"}}, "^env-kwargs has 'render_mode', which rlpipe"),
    "no dict": (Sized, {"kwargs": [1]}, r"^kwargs is \[1\]; expected a dict of arguments by name"),
    "no name": (Sized, {"kwargs": {1: 2}}, "^kwargs has the name 1; expected text"),
    "no copy": (Sized, {"kwargs": {"size": Stuck()}}, "^kwargs has 'size', a Stuck that cannot be copied for each env"),
    "a game's own": ("ALE/Pong-v5", {"kwargs": {"frameskip": 1}}, "^env-kwargs: ALE/Pong-v5 takes no argument 'frame"),
    "no wrapper": (Sized, {"wrappers": ("os:getcwd",)}, "^wrapper is 'os:getcwd', which cannot be put around Sized"),
    "no class of wrappers": (Sized, {"wrappers": ("sized:Sized",)}, "which is no gymnasium.Wrapper, and no function"),
    "of vectors": (Sized, {"wrappers": (gym.wrappers.vector.ClipReward,)}, "which wraps vector environments"),
    "no module": (Sized, {"wrappers": ("ClipReward",)}, "^wrappers has 'ClipReward'; expected module:Wrapper, such as"),
    "not found": (Sized, {"wrappers": ("sized:Double",)}, "has no 'Double'; did you mean sized:Doubled?"),
    "no such module": (Sized, {"wrappers": ("nowhere_to_be:A",)}, "there is no module 'nowhere_to_be'"),
    "no JSON": (
        Sized,
        {"wrappers": ("sized:Doubled {factor: 1}",)},
        "follows wrappers sized:Doubled is '{factor: 1}', which is not JSON",
    ),
    "no object": (
        Sized,
        {"wrappers": ("sized:Doubled [1]",)},
        r"follows wrappers sized:Doubled is '\[1\]'; expected a JSON object",
    ),
    "its argument": (
        Sized,
        {"wrappers": ((Doubled, {"facto": 1}),)},
        "^wrapper: sized:Doubled takes no argument",
    ),
    "its need": (Sized, {"wrappers": (TransformReward,)}, "TransformReward needs an argument 'func', which is not"),
    "one text": (Sized, {"wrappers": "sized:Doubled"}, "^wrappers is 'sized:Doubled'; expected a tuple of wrappers"),
    "learns": (Sized, {"wrappers": (NormalizeObservation,)}, "has the wrapper NormalizeObservation, which learns"),
    "returns none": (Sized, {"wrappers": (lambda env: None,)}, "which returned None; expected a wrapped environment"),
    "stack": (Sized, {"frame_stack": 0}, "^frame_stack is 0; allowed is a whole number, 1 to 1000"),
    "repeat": (Sized, {"action_repeat": 1.5}, "^action_repeat is 1.5; allowed is a whole number, 1 to 10000"),
    "time": (Sized, {"time_aware": True}, "^time_aware is True, and sized:Sized has no time limit; set one with"),
    "two stacks": (Sized, {"frame_stack": 2, "from_pixels": True}, "^frame_stack is 2, and from_pixels stacks four"),
    "envpool": ("CartPole-v1", {"backend": "envpool", "frame_stack": 2}, "whose environments take no frame_stack"),
    "name of an option": (Sized, {"env_kwargs": {}}, "^EnvConfig has no argument 'env_kwargs'; it is kwargs here"),
    "a slip": (Sized, {"frame_stak": 3}, "^EnvConfig has no argument 'frame_stak'; did you mean frame_stack?"),
}


@pytest.mark.parametrize(("env_id", "options", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_in_one_line(env_id, options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        make_env(EnvConfig(env_id, **{"num_envs": 2, **options}), seed=0).close()
    assert len(str(caught.value).splitlines()) == 1


def test_a_function_without_a_render_mode_is_drawn_by_none():
    with pytest.raises(
        ConfigError, match="^env-id is '<lambda>', whose render_mode is None, and 'rgb_array' is needed"
    ):
        make_env(EnvConfig(lambda: Sized(3)), render_mode="rgb_array")
    env = make_env(EnvConfig(make_sized), render_mode="rgb_array")
    env.reset()
    assert env.base_env.envs.envs[0].render().shape == (40, 40, 3)
    env.close()
