"""Types and values of observations, rewards and flags: taken where nothing is lost, else refused by name."""

import gymnasium as gym
import numpy as np
import odd
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete
from walking import register, rollout

from rlpipe.errors import TrainingError
from rlpipe.pipelines.envs import EnvConfig, VectorEnv, make_env
from rlpipe.pipelines.envs.backends.cartpole import SameStepCartPole
from rlpipe.scripts.main import run

TYPES = [
    ("uint16", 2**16 - 1, torch.int32),
    ("uint32", 2**32 - 1, torch.int64),
    ("uint64", 2**63 - 1, torch.int64),
    ("uint64", 2**64 - 1, torch.float64),
    ("float16", 1024, torch.float32),
    ("longdouble", 1024, torch.float64),
    ("bool", 1, torch.int8),
    (">f4", 1024, torch.float32),
    (">i8", 2**63 - 1, torch.int64),
    ("uint8", 255, torch.uint8),
    ("int16", 2**15 - 1, torch.int16),
]


@pytest.mark.parametrize(("dtype", "high", "read"), TYPES)
def test_types_that_pytorch_lacks_are_read_as_ones_that_hold_their_numbers(dtype, high, read):
    env_id = register(odd.Typed, kwargs={"dtype": dtype, "high": high})
    seen = rollout(env_id)
    assert seen["observation"].dtype == read
    expected = [min(each, 1) if dtype == "bool" else each for each in range(odd.STEPS)]
    assert seen["observation"][1, : odd.STEPS, 0].tolist() == expected
    assert (
        seen["next", "observation"][1, odd.STEPS - 1].tolist() == [float(high) if read.is_floating_point else high] * 2
    )
    env = make_env(EnvConfig(env_id, 2))
    assert env.observation_spec["observation"].dtype == read
    assert env.observation_spec["observation"].is_in(seen["next", "observation"][:, odd.STEPS - 1])


@pytest.mark.parametrize("dtype", ["uint16", "float16", ">f4"])
def test_types_that_pytorch_lacks_come_out_of_workers(dtype, identical):
    env_id = register(odd.Typed, kwargs={"dtype": dtype})
    identical(rollout(env_id, "async"), rollout(env_id))


@pytest.mark.parametrize("recipe", ["ppo", "dqn", "reinforce"])
def test_unsigned_observations_train(recipe, tmp_path, capfd):
    env_id = register(odd.Typed, kwargs={"dtype": "uint16"})
    batch = ["--num-envs", "2", "--total-frames", "64", "--quiet", "--final-eval-episodes", "2"]
    small = {"ppo": ["--rollout-steps", "8", "--minibatch-size", "8"], "reinforce": ["--rollout-steps", "8"]}
    options = small.get(recipe, ["--rollout-steps", "8", "--minibatch-size", "8", "--warmup-frames", "16"])
    assert run(["train", recipe, "--env-id", env_id, *batch, *options, "--run-dir", str(tmp_path / "run")]) == 0
    assert "return 15.0" in capfd.readouterr().out


class Returns(gym.Env):
    """Returns what it is told to."""

    action_space = Discrete(2)

    def __init__(self, space, observation, reward=1.0, terminated=False, truncated=False):
        self.observation_space, self.result = space, (observation, reward, terminated, truncated, {})

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.result[0], {}

    def step(self, action):
        return self.result


BOX, BYTES, ONE = Box(-9.0, 9.0, (2,), np.float32), Box(0, 255, (2,), np.uint8), Box(-9.0, 9.0, (), np.float32)
TAKEN = {
    "list": (BOX, [1.0, 2.0]),
    "tuple of integers": (BOX, (1, 2)),
    "float64": (BOX, np.array([1.0, 2.0])),
    "integers": (BOX, np.array([1, 2])),
    "tensor": (BOX, torch.tensor([1.0, 2.0], requires_grad=True)),
    "masked array": (BOX, np.ma.masked_array([1.0, 2.0], mask=[False, True])),
    "every other one": (BOX, np.array([1.0, 0.0, 2.0, 0.0], np.float32)[::2]),
    "int64 for bytes": (BYTES, np.array([1, 2])),
    "list for bytes": (BYTES, [1, 2]),
    "flags for bytes": (Box(0, 1, (2,), np.uint8), np.array([True, True])),
}


@pytest.mark.parametrize("name", TAKEN)
def test_observations_that_become_the_spaces_own_without_loss(name):
    space, observation = TAKEN[name]
    seen = rollout(register(Returns, kwargs={"space": space, "observation": observation}), steps=2)
    assert seen["next", "observation"].numpy().dtype == space.dtype
    assert seen["next", "observation"][1, 1].tolist() == ([1, 1] if "flags" in name else [1, 2])


def test_entries_that_are_not_in_the_space_are_left_out_to_the_end_of_an_episode():
    returned = {"place": np.ones(2, np.float32), "note": 3}
    kwargs = {"space": Dict(place=BOX), "observation": returned, "terminated": True}
    seen = rollout(register(Returns, kwargs=kwargs), steps=2)
    assert "note" not in seen["next"]
    assert (seen["next", "place"] == 1).all()


@pytest.mark.parametrize("value", [3, np.int32(3), np.array(3), np.array([3]), torch.tensor([3])])
def test_observations_of_one_number(value):
    for space in (Discrete(5), Box(0, 9, (), np.int64), Box(0, 9, (1,), np.int64), ONE):
        seen = rollout(register(Returns, kwargs={"space": space, "observation": value}), steps=2)
        assert (seen["next", "observation"] == 3).all()
        assert seen["next", "observation"].shape == (2, 2, *space.shape)


@pytest.mark.parametrize("yes", [1, 1.0, np.uint8(1), np.array(True), np.array([1]), torch.tensor(True)])
def test_flags_that_are_ones(yes):
    options = {"space": BOX, "observation": [0.0, 0.0], "terminated": yes, "truncated": yes}
    seen = rollout(register(Returns, kwargs=options), steps=2)
    assert seen["next", "terminated"].all()
    assert seen["next", "truncated"].all()
    assert seen["next", "terminated"].dtype == torch.bool


@pytest.mark.parametrize("reward", [True, np.bool_(True), np.float16(1), np.array(1), np.ones((1, 1)), torch.ones(1)])
def test_rewards_of_one_number(reward):
    seen = rollout(register(Returns, kwargs={"space": BOX, "observation": [0, 0], "reward": reward}), steps=2)
    assert (seen["next", "reward"] == 1).all()


REFUSED = {
    "above": (BYTES, [0, 256], r"is 256 at \[1\], expected integers from 0 to 255"),
    "below": (BYTES, np.array([-1, 0]), r"is -1 at \[0\], expected integers from 0 to 255"),
    "wrapped": (
        Box(-9, 9, (2,), np.int8),
        np.array([0, 200], np.uint8),
        r"is 200 at \[1\], expected integers from -128",
    ),
    "bits": (Box(0, 1, (2,), np.bool_), [0, 2], r"is 2 at \[1\], expected integers from 0 to 1"),
    "fractions": (BYTES, [0.5, 0.5], "has dtype float64, expected uint8"),
    "objects": (BOX, np.array([1, None]), "has dtype object, expected float32"),
    "two for one": (ONE, [1.0, 2.0], r"has shape \[2\], expected \[\]"),
    "huge": (BOX, [0.0, 1e39], r"is 1e\+39 at \[1\], expected finite numbers in the range of float32"),
    "huge float64": (
        Box(-9, 9, (2,), np.float64),
        np.array([-1e39, 0]),
        r"is -1e\+39 at \[0\], expected finite numbers in",
    ),
    "huge half": (
        Box(-9, 9, (2,), np.float16),
        [0.0, -1e39],
        r"is -1e\+39 at \[1\], expected finite numbers in the range",
    ),
    "huge longdouble": (
        Box(-9, 9, (2,), np.longdouble),
        [1e39, 0.0],
        r"is 1e\+39 at \[0\], expected finite numbers in",
    ),
    "infinite": (BOX, [0.0, np.inf], r"is inf at \[1\], expected finite numbers"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_lose_something_is_refused_by_name(name):
    space, observation, message = REFUSED[name]
    with pytest.raises(
        TrainingError, match=rf"^environment 0 of 2 .* its reset after step 0: key 'observation' {message}"
    ):
        rollout(register(Returns, kwargs={"space": space, "observation": observation}))


class Leaps(odd.Plain):
    """Observes a number beyond float32 at its end, or in its second reset."""

    def __init__(self, dtype, ends):
        self.observation_space, self.ends, self.resets = Box(-np.inf, np.inf, (2,), dtype), ends, 0

    def reset(self, **options):
        self.resets += 1
        return super().reset(**options)

    def out(self):
        far = self.count == odd.STEPS if self.ends else self.resets == 2
        return np.array([0.0, 1e39 if far else 0.0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("ends", "when"), [(True, "step 5"), (False, "its reset after step 5")])
def test_a_number_beyond_float32_is_named_where_it_comes(dtype, ends, when):
    with pytest.raises(
        TrainingError, match=rf"^environment 0 of 2 .* failed in {when}: key 'observation' is 1e\+39 at \[1\]"
    ):
        rollout(register(Leaps, kwargs={"dtype": dtype, "ends": ends}))


def test_a_number_beyond_float32_in_a_vector_environment_of_one_piece():
    class Far(SameStepCartPole):
        def step(self, action):
            observation, *rest = super().step(action)
            observation = observation.astype(np.float64)
            observation[1, 2] = 1e39
            return observation, *rest

    env = VectorEnv(Far(2, max_episode_steps=3), seed=0)
    env.restart()
    with pytest.raises(
        TrainingError, match=r"^environment 1 of 2 failed in step 1: key 'observation' is 1e\+39 at \[2\]"
    ):
        env.advance(np.zeros(2, np.int64))
