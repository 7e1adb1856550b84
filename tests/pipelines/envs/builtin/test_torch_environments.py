"""The environments in tensors beside Gymnasium's: the same steps, limits, rewards and first states."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from rlpipe.pipelines.envs import EnvConfig, env_spec, make_env
from rlpipe.pipelines.envs.builtin.register import SIMULATORS

TWINS = {
    "rlpipe/TorchCartPole-v0": "CartPole-v1",
    "rlpipe/TorchPendulum-v0": "Pendulum-v1",
    "rlpipe/TorchMountainCar-v0": "MountainCar-v0",
}
TURN = 2 * np.pi


def twin_of(env_id):
    """Gymnasium's environment, and a function that puts a state of ours into it."""
    twin = gym.make(TWINS[env_id]).unwrapped
    twin.reset(seed=0)

    def put(state):
        numbers = state.double().numpy()
        twin.state = numbers[[3, 2]] if "Pendulum" in env_id else numbers
        twin.steps_beyond_terminated = None

    return twin, put


@pytest.mark.parametrize("env_id", TWINS)
def test_each_step_is_gymnasiums(env_id):
    env = make_env(EnvConfig(env_id, 3), seed=1).base_env
    env.restart()
    twin, put = twin_of(env_id)
    draw = torch.Generator().manual_seed(0)
    ended = 0
    for _ in range(250):
        before = env._state.clone()
        if env.action_spec.dtype is torch.int64:
            action = torch.randint(env.action_spec.space.n, (3,), generator=draw)
        else:
            # beyond the bounds as well
            action = torch.rand(3, 1, generator=draw) * 6 - 3
        after = env.advance(action)
        for index in range(3):
            put(before[index])
            observation, reward, terminated, _, _ = twin.step(action[index].numpy())
            np.testing.assert_allclose(after["observation"][index], observation, rtol=1e-6, atol=1e-6)
            np.testing.assert_allclose(after["reward"][index], reward, rtol=1e-6, atol=1e-6)
            assert after["terminated"][index] == terminated
            ended += bool(after["done"][index])
    assert ended >= 3


@pytest.mark.parametrize("env_id", TWINS)
def test_a_whole_episode_is_gymnasiums(env_id):
    """Without being brought together in between, where rounding does not grow beyond a thousandth."""
    env = make_env(EnvConfig(env_id, 1), seed=5).base_env
    env.restart()
    twin, put = twin_of(env_id)
    put(env._state[0])
    for step in range(30):
        # against the motion, which is slow then
        seen = env.root["observation"][0]
        if "CartPole" in env_id:
            action = (seen[2:3] + 0.5 * seen[3:4] > 0).long()
        else:
            action = torch.tensor([[0.5]]) if "Pendulum" in env_id else torch.tensor([step % 3])
        after = env.advance(action)
        observation, reward, *_ = twin.step(action[0].numpy())
        np.testing.assert_allclose(after["observation"][0], observation, atol=1e-3)
        np.testing.assert_allclose(after["reward"][0], reward, atol=1e-3)


def test_the_car_reaches_its_goal_and_stops_at_the_wall():
    env = make_env(EnvConfig("rlpipe/TorchMountainCar-v0", 2), seed=0).base_env
    env.restart()
    twin, put = twin_of("rlpipe/TorchMountainCar-v0")
    env._state = torch.tensor([[0.49, 0.03], [-1.19, -0.05]])
    after = env.advance(torch.tensor([2, 0]))
    assert after["terminated"].tolist() == [True, False]
    assert after["reward"].tolist() == [-1.0, -1.0]
    assert after["observation"][1].tolist() == [np.float32(-1.2), 0.0]
    put(torch.tensor([-1.19, -0.05]))
    np.testing.assert_allclose(twin.step(0)[0], after["observation"][1])


@pytest.mark.parametrize("env_id", TWINS)
def test_spaces_limits_and_first_states_are_gymnasiums(env_id):
    twin = gym.make(TWINS[env_id])
    env = make_env(EnvConfig(env_id, 2_000), seed=3)
    assert env.base_env.envs.single_observation_space == twin.observation_space
    assert env.base_env.envs.single_action_space == twin.action_space
    assert env_spec(env_id).max_episode_steps == twin.spec.max_episode_steps == env.base_env.limit
    ours = env.reset()["observation"].numpy()
    theirs = np.stack([twin.reset(seed=seed)[0] for seed in range(1_000)])
    quarters = [0, 0.25, 0.5, 0.75, 1]
    one, other = np.quantile(ours, quarters, 0), np.quantile(theirs, quarters, 0)
    assert (np.abs(one - other) <= 0.12 * np.ptp(theirs, 0)).all()


def test_no_cartpole_falls_sooner_than_it_says():
    """Each may use the state that is ready for it once: between two draws none may end twice."""
    simulator = make_env(EnvConfig("rlpipe/TorchCartPole-v0", 1)).base_env._simulator
    corners, both = torch.cartesian_prod(*[torch.tensor([-0.05, 0.05])] * 4), []
    for _ in range(simulator.shortest):
        assert not any(terminated.any() for _, _, terminated in both)
        both = [simulator.move(corners, torch.full((len(corners),), action)) for action in (0, 1)]
        corners = torch.cat([state for state, _, _ in both])
    assert any(terminated.any() for _, _, terminated in both)


def test_all_are_registered_with_gymnasium_as_their_twins():
    assert SIMULATORS.keys() == TWINS.keys()
    for env_id, twin in TWINS.items():
        made = gym.make(env_id, render_mode="rgb_array")
        assert type(made.unwrapped) is type(gym.make(twin).unwrapped)
        made.close()
