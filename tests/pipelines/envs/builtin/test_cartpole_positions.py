"""CartPole without velocities: CartPole's own steps, of which two numbers are shown; vectorised as single."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from gymnasium.vector import AutoresetMode

from rlpipe.pipelines.envs import EnvConfig, make_env
from rlpipe.pipelines.envs.backends.cartpole import SameStepCartPole
from rlpipe.pipelines.envs.builtin.cartpole_positions import PositionCartPole, PositionCartPoleVector
from rlpipe.pipelines.envs.builtin.register import register

register()


@pytest.mark.parametrize("seed", range(3))
def test_it_is_cartpole_with_the_position_and_the_angle(seed):
    ours, theirs = PositionCartPole(), CartPoleEnv()
    one, two = ours.reset(seed=seed)[0], theirs.reset(seed=seed)[0]
    actions, terminated = iter([0, 1, 1, *[0] * 50]), False
    while not terminated:
        np.testing.assert_array_equal(one, two[[0, 2]])
        assert one in ours.observation_space
        action = next(actions)
        (one, *rest), (two, *others) = ours.step(action), theirs.step(action)
        assert rest == others
        terminated = rest[1]
    np.testing.assert_array_equal(ours.observation_space.high, theirs.observation_space.high[[0, 2]])


def test_its_id_and_the_vectorised_one():
    assert gym.make("rlpipe/CartPolePositions-v0").spec.max_episode_steps == 500
    envs = gym.make_vec("rlpipe/CartPolePositions-v0", 5)
    assert isinstance(envs, PositionCartPoleVector)
    assert envs.max_episode_steps == 500
    assert envs.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert envs.reset(seed=0)[0] in envs.observation_space
    assert envs.single_observation_space == PositionCartPole().observation_space


def test_the_vectorised_one_is_the_vectorised_cartpole():
    ours, theirs, rng, ended = PositionCartPoleVector(8, 20), SameStepCartPole(8, 20), np.random.default_rng(0), 0
    one, two = ours.reset(seed=3)[0], theirs.reset(seed=3)[0]
    for _ in range(60):
        np.testing.assert_array_equal(one, two[:, [0, 2]])
        actions = rng.integers(2, size=8)
        (one, *rest, info), (two, *others, other_info) = ours.step(actions), theirs.step(actions)
        for mine, their in zip(rest, others, strict=True):
            np.testing.assert_array_equal(mine, their)
        assert info.keys() == other_info.keys()
        if info:
            ended += info["_final_obs"].sum()
            np.testing.assert_array_equal(info["final_obs"], other_info["final_obs"][:, [0, 2]])
    assert ended > 16
    mask = np.arange(8) < 4
    assert ours.reset(options={"reset_mask": mask})[0].shape == (8, 2)


def test_its_state_is_saved_in_the_middle_of_episodes():
    env, other = (make_env(EnvConfig("rlpipe/CartPolePositions-v0", 3), seed=seed) for seed in (0, 1))
    env.reset(), other.reset()
    assert env.base_env.can_capture()
    other.base_env.set_state(env.base_env.get_state())
    for action in (0, 1, 1):
        for each in (env, other):
            each.base_env.advance(np.full(3, action))
        np.testing.assert_array_equal(env.base_env.root["observation"], other.base_env.root["observation"])
    assert env.base_env.root["observation"].shape == (3, 2)
