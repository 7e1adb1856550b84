"""CartPoles with other poles: the instances, what is shown of them, and the vectorised ones against single ones."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from gymnasium.vector import AutoresetMode

from rlpipe.pipelines.envs.builtin.cartpole_instances import InstanceCartPole, InstanceCartPoleVector, instances
from rlpipe.pipelines.envs.builtin.register import register

register()

IDS = {
    "rlpipe/CartPoleInstances-v0": (False, False),
    "rlpipe/CartPoleInstancesHeldOut-v0": (True, False),
    "rlpipe/CartPoleInstancesBlind-v0": (False, True),
    "rlpipe/CartPoleInstancesBlindHeldOut-v0": (True, True),
}


def poles(env):
    return np.stack(np.broadcast_arrays(env.length, env.masspole), axis=-1)


def test_training_and_held_out_instances_are_a_checkerboard():
    training, held_out = instances(held_out=False), instances(held_out=True)
    assert (training.shape, held_out.shape) == ((13, 2), (12, 2))
    both = {tuple(row) for row in np.concatenate([training, held_out])}
    assert len(both) == 25
    lengths, masses = sorted({row[0] for row in both}), sorted({row[1] for row in both})
    assert (len(lengths), len(masses)) == (5, 5)
    colours = {(lengths.index(length) + masses.index(mass)) % 2 for length, mass in training}
    assert colours == {0}


@pytest.mark.parametrize(("env_id", "options"), IDS.items())
def test_ids_draw_from_their_instances_and_show_them_or_not(env_id, options):
    held_out, blind = options
    env = gym.make(env_id)
    assert env.spec.max_episode_steps == 500
    drawn, shown = [], []
    for seed in range(200):
        observation, _ = env.reset(seed=seed)
        after, *_ = env.step(0)
        assert observation in env.observation_space
        assert after in env.observation_space
        assert after.dtype == np.float32
        np.testing.assert_array_equal(after[4:], observation[4:])
        drawn.append(poles(env.unwrapped))
        shown.append(observation[4:])
    table = instances(held_out=held_out)
    assert {tuple(pole) for pole in drawn} == {tuple(row) for row in table}
    if blind:
        assert not np.any(shown)
    else:
        low, high = np.log(instances(held_out=False)).min(0), np.log(instances(held_out=False)).max(0)
        np.testing.assert_allclose(shown, 2 * (np.log(drawn) - low) / (high - low) - 1, atol=1e-6)


def test_the_vectorised_ids():
    for env_id, (held_out, blind) in IDS.items():
        envs = gym.make_vec(env_id, 64)
        assert isinstance(envs, InstanceCartPoleVector)
        assert envs.max_episode_steps == 500
        assert envs.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
        observation, _ = envs.reset(seed=0)
        assert observation in envs.observation_space
        assert {tuple(pole) for pole in poles(envs)} <= {tuple(row) for row in instances(held_out=held_out)}
        assert bool(np.any(observation[:, 4:])) is not blind


@pytest.mark.parametrize("seed", range(5))
def test_it_is_cartpole_with_another_pole(seed):
    ours, theirs = InstanceCartPole(), CartPoleEnv()
    ours.reset(seed=seed)
    theirs.reset(seed=seed)
    length, mass = poles(ours)
    theirs.length, theirs.masspole, theirs.total_mass, theirs.polemass_length = length, mass, 1 + mass, mass * length
    for action in [0, 1, 1, 0]:
        (first, *rest), (second, *others) = ours.step(action), theirs.step(action)
        np.testing.assert_array_equal(first[:4], second)
        assert rest == others


def test_the_vectorised_ones_are_truncated_at_their_limit():
    envs = InstanceCartPoleVector(2, max_episode_steps=2)
    envs.reset(seed=0)
    truncated = [envs.step(np.array([action, action]))[3].tolist() for action in (0, 1, 0, 1)]
    assert truncated == [[False, False], [True, True]] * 2


@pytest.mark.parametrize("held_out", [False, True])
def test_vectorised_ones_equal_single_ones_step_by_step(held_out):
    envs, rng, ended = InstanceCartPoleVector(16, 40, held_out=held_out), np.random.default_rng(0), 0
    observation, _ = envs.reset(seed=3)
    singles = [InstanceCartPole(held_out=held_out) for _ in range(16)]
    for index, single in enumerate(singles):
        follow(single, envs, index)
    for _ in range(60):
        actions = rng.integers(2, size=16)
        observation, reward, terminated, truncated, info = envs.step(actions)
        done = terminated | truncated
        for index, single in enumerate(singles):
            after, single_reward, single_terminated, _, _ = single.step(int(actions[index]))
            ours = info["final_obs"][index] if done[index] else observation[index]
            np.testing.assert_allclose(ours, after, rtol=1e-6, atol=1e-6)
            assert (reward[index], terminated[index]) == (single_reward, single_terminated)
            if done[index]:
                ended += 1
                follow(single, envs, index)
                np.testing.assert_array_equal(observation[index, 4:], single._shown[single._drawn])
    assert ended > 32


def follow(single, envs, index):
    """Put a single environment where one of the vectorised ones has just started, with the same pole."""
    while not np.array_equal(poles(single), poles(envs)[index]):
        single.reset()
    single.state = envs.state[:, index].copy()
    single.steps_beyond_terminated = None


def test_only_environments_that_restart_get_another_pole():
    envs, ended, changed = InstanceCartPoleVector(8), 0, 0
    envs.reset(seed=0)
    for _ in range(100):
        before = poles(envs)
        _, _, terminated, truncated, _ = envs.step(np.ones(8, dtype=np.int64))
        done, other = terminated | truncated, (poles(envs) != before).any(1)
        assert not (other & ~done).any()
        ended, changed = ended + done.sum(), changed + other.sum()
    assert ended > 40
    assert changed > ended / 2


def test_a_partial_reset_draws_for_its_own_only():
    envs, mask, changed = InstanceCartPoleVector(8), np.arange(8) < 4, False
    envs.reset(seed=0)
    envs.step(np.ones(8, dtype=np.int64))
    for _ in range(5):
        before, state = poles(envs), envs.state.copy()
        observation, _ = envs.reset(options={"reset_mask": mask})
        np.testing.assert_array_equal(poles(envs)[~mask], before[~mask])
        np.testing.assert_array_equal(envs.state[:, ~mask], state[:, ~mask])
        assert observation.shape == (8, 6)
        changed |= (poles(envs)[mask] != before[mask]).any()
    assert changed


@pytest.mark.parametrize("make", [InstanceCartPole, lambda: InstanceCartPoleVector(4)])
def test_seeds_make_the_streams(make):
    def observations(seed):
        env = make()
        return np.stack([env.reset(seed=seed)[0], *(env.reset()[0] for _ in range(9))])

    np.testing.assert_array_equal(observations(0), observations(0))
    assert (observations(0)[..., 4:] != observations(1)[..., 4:]).any()


def test_every_instance_can_be_balanced():
    table = np.concatenate([instances(held_out=False), instances(held_out=True)])
    envs = InstanceCartPoleVector(len(table))
    envs.reset(seed=0)
    envs.length, envs.masspole = table.T
    envs.total_mass, envs.polemass_length = envs.masspole + envs.masscart, envs.masspole * envs.length
    gains = np.stack([lqr_gain(*pole) for pole in table])
    for step in range(1, 501):
        pushes = (gains * envs.state.T).sum(1) < 0
        _, _, terminated, truncated, _ = envs.step(pushes.astype(np.int64))
        assert not terminated.any(), step
    assert truncated.all()


def lqr_gain(length, mass, tau=0.02):
    """The linear-quadratic regulator's gain for CartPole's equations, linearised, by iterating Riccati's."""
    total = 1.0 + mass
    inertia = length * (4 / 3 - mass / total)
    a, b = np.eye(4), np.zeros((4, 1))
    a[0, 1] = a[2, 3] = tau
    a[3, 2], b[3, 0] = tau * 9.8 / inertia, -tau / (total * inertia)
    a[1, 2], b[1, 0] = -mass * length / total * a[3, 2], tau / total - mass * length / total * b[3, 0]
    cost = value = np.diag([1.0, 0.1, 10.0, 0.1])
    for _ in range(1000):
        gain = np.linalg.solve(0.01 + b.T @ value @ b, b.T @ value @ a)
        value = cost + a.T @ value @ (a - b @ gain)
    return gain[0]
