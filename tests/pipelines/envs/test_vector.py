"""VectorEnv against single Gymnasium environments step by step, specs, resets, and what is refused."""

import multiprocessing
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from tensordict import TensorDict
from torchrl.envs import StepCounter, Transform
from torchrl.envs.utils import check_env_specs

from rlpipe.errors import ConfigError
from rlpipe.modules import MLP, QActor
from rlpipe.pipelines.collectors.evaluation import evaluate
from rlpipe.pipelines.envs import EnvConfig, OneHotObservation, ShapeReward, VectorEnv, make_env

ENVS = [
    ("CartPole-v1", "auto"),
    ("CartPole-v0", "auto"),
    ("CartPole-v1", "sync"),
    ("Acrobot-v1", "auto"),
    ("Acrobot-v1", "async"),
    ("Pendulum-v1", "auto"),
    ("MountainCarContinuous-v0", "auto"),
    ("FrozenLake-v1", "auto"),
    ("tests/Counter-v0", "auto"),
    ("tests/IdentityBox-v0", "auto"),
]


@pytest.mark.filterwarnings("ignore:.*out of date.*")
@pytest.mark.parametrize(("env_id", "backend"), ENVS)
@pytest.mark.parametrize("num_envs", [1, 3])
def test_specs_hold(env_id, backend, num_envs):
    env = make_env(EnvConfig(env_id, num_envs, backend), seed=0)
    check_env_specs(env)
    assert env.batch_size == (num_envs,)
    env.close()


def test_async_gives_what_sync_gives(identical):
    rollouts = []
    for backend in ("sync", "async"):
        env = make_env(EnvConfig("Acrobot-v1", 2, backend, max_episode_steps=5), seed=3)
        torch.manual_seed(1)
        rollouts.append(env.rollout(12, break_when_any_done=False))
        env.close()
    identical(*rollouts)


def single_envs(env_id, seeds, **kwargs):
    envs = [gym.make(env_id, **kwargs) for _ in seeds]
    return envs, [env.reset(seed=seed)[0] for env, seed in zip(envs, seeds, strict=True)]


@pytest.mark.parametrize("env_id", ["Acrobot-v1", "Pendulum-v1", "FrozenLake-v1"])
def test_equals_single_environments_step_by_step(env_id):
    env = make_env(EnvConfig(env_id, 2, max_episode_steps=7), seed=11)
    seeds = [int(word) for word in np.random.SeedSequence(11).generate_state(2)]
    singles, observations = single_envs(env_id, seeds, max_episode_steps=7)
    totals, counts, td = [0.0, 0.0], [0, 0], env.reset()
    ended = 0
    for _ in range(40):
        for index, observation in enumerate(observations):
            np.testing.assert_array_equal(td["observation"][index].numpy(), observation)
            assert td["step_count"][index] == counts[index]
            assert td["episode_reward"][index].item() == pytest.approx(totals[index], rel=1e-6)
        env.rand_action(td)
        stepped, td = env.step_and_maybe_reset(td)
        for index, single in enumerate(singles):
            action = stepped["action"][index].numpy()
            after = stepped["next"][index]
            observation, reward, terminated, truncated, _ = single.step(action if action.ndim else int(action))
            np.testing.assert_array_equal(after["observation"].numpy(), observation)
            totals[index], counts[index] = totals[index] + reward, counts[index] + 1
            assert after["reward"].item() == pytest.approx(reward)
            assert after["episode_reward"].item() == pytest.approx(totals[index], rel=1e-6)
            assert after["step_count"].item() == counts[index]
            flags = [after[key].item() for key in ("terminated", "truncated", "done")]
            assert flags == [terminated, truncated, terminated or truncated]
            if terminated or truncated:
                observation, _ = single.reset()
                totals[index], counts[index], ended = 0.0, 0, ended + 1
            observations[index] = observation
    assert ended > 8


def test_vectorised_cartpole_equals_single_cartpoles():
    env = make_env(EnvConfig("CartPole-v1", 3), seed=5)
    singles, _ = single_envs("CartPole-v1", [0, 1, 2])
    td, generator = env.reset(), torch.Generator().manual_seed(0)
    for single, state in zip(singles, env.base_env.envs.state.T, strict=True):
        single.unwrapped.state = state.copy()
    ended = 0
    for _ in range(120):
        td["action"] = torch.randint(2, (3,), generator=generator)
        stepped, td = env.step_and_maybe_reset(td)
        for index, single in enumerate(singles):
            observation, reward, terminated, _, _ = single.step(int(stepped["action"][index]))
            after = stepped["next"][index]
            np.testing.assert_allclose(after["observation"].numpy(), observation, rtol=0, atol=1e-6)
            assert (after["reward"].item(), after["terminated"].item()) == (reward, terminated)
            if terminated:
                ended += 1
                single.reset()
                single.unwrapped.state = env.base_env.envs.state[:, index].copy()
                assert abs(td["observation"][index]).max() <= 0.05
    assert ended > 5


@pytest.mark.parametrize("num_envs", [1, 2])
def test_cartpole_is_truncated_at_its_limit(num_envs):
    env = make_env(EnvConfig("CartPole-v1", num_envs, max_episode_steps=4), seed=0)
    rollout = env.rollout(9, lambda td: td.set("action", td["step_count"].squeeze(-1) % 2), break_when_any_done=False)
    done = rollout["next", "done"].squeeze(-1)
    assert done[0].tolist() == [False, False, False, True] * 2 + [False]
    assert torch.equal(rollout["next", "truncated"].squeeze(-1), done)
    assert not rollout["next", "terminated"].any()
    assert rollout["next", "episode_reward"][0].flatten().tolist() == [1, 2, 3, 4, 1, 2, 3, 4, 1]
    assert rollout["step_count"][0].flatten().tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0]


@pytest.mark.parametrize(
    ("env_id", "ended_by"), [("tests/Counter-v0", "terminated"), ("tests/CutCounter-v0", "truncated")]
)
def test_last_observation_is_under_next_and_the_reset_one_is_the_next_root(env_id, ended_by):
    env = make_env(EnvConfig(env_id, 2), seed=0)
    rollout = env.rollout(5, break_when_any_done=False)
    assert rollout["observation"][0].flatten().tolist() == [10, 11, 12, 10, 11]
    assert rollout["next", "observation"][0].flatten().tolist() == [11, 12, 13, 11, 12]
    assert rollout["next", ended_by][0].flatten().tolist() == [False, False, True, False, False]


def test_discrete_spaces_that_do_not_start_at_zero():
    env = make_env(EnvConfig("tests/IdentityFrom7-v0", 3), seed=0)
    check_env_specs(env)
    rollout = env.rollout(25, lambda td: td.set("action", td["observation"].clone()), break_when_any_done=False)
    for key in ("observation", ("next", "observation")):
        assert sorted(rollout[key].unique().tolist()) == [0, 1, 2]
    assert (rollout["next", "reward"] == 1).all()


def test_a_partial_reset_leaves_the_others_alone():
    env = make_env(EnvConfig("tests/Counter-v0", 3), seed=0)
    td = env.reset()
    for _ in range(2):
        td = env.step_mdp(env.step(td.set("action", torch.zeros(3, dtype=torch.int64))))
    td["_reset"] = torch.tensor([[False], [True], [False]])
    td = env.reset(td)
    assert td["observation"].flatten().tolist() == [12, 10, 12]
    assert td["step_count"].flatten().tolist() == [2, 0, 2]
    assert td["episode_reward"].flatten().tolist() == [3, 0, 3]


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Acrobot-v1"])
def test_seeds_make_the_streams(env_id):
    def first(seed):
        env = make_env(EnvConfig(env_id, 4), seed=seed)
        return env.reset()["observation"]

    same, again, other = first(0), first(0), first(1)
    assert torch.equal(same, again)
    rows = torch.cat([same, other])
    assert len(rows.unique(dim=0)) == 8


def test_a_stock_transform_can_be_added():
    env = make_env(EnvConfig("CartPole-v1", 2), seed=0, transforms=[StepCounter(max_steps=3, step_count_key="count")])
    check_env_specs(env)
    assert env.rollout(6, break_when_any_done=False)["count"][0].flatten().tolist() == [0, 1, 2, 0, 1, 2]


def test_a_caller_may_write_into_what_it_gets():
    class Cut(Transform):
        def _step(self, tensordict, next_tensordict):
            for key in ("truncated", "done"):
                next_tensordict[key].logical_or_(next_tensordict["step_count"] >= 2)
            next_tensordict["observation"].add_(100.0)
            return next_tensordict

    env = make_env(EnvConfig("CartPole-v1", 2), seed=0, transforms=[Cut()])
    rollout = env.rollout(7, break_when_any_done=False)
    assert rollout["step_count"][0].flatten().tolist() == [0, 1, 0, 1, 0, 1, 0]
    assert (rollout["observation"][:, ::2].abs() < 50).all()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_transform_that_fails_leaves_no_worker_behind(error):
    class Broken(Transform):
        def transform_observation_spec(self, observation_spec):
            raise error

    before = set(multiprocessing.active_children())
    with pytest.raises(error):
        make_env(EnvConfig("Acrobot-v1", 2, "async"), transforms=[Broken()])
    assert set(multiprocessing.active_children()) == before


def test_one_hot_observation():
    env = make_env(EnvConfig("FrozenLake-v1", 2), seed=0, transforms=[OneHotObservation()])
    check_env_specs(env)
    rollout = env.rollout(20, break_when_any_done=False)
    for key in ("observation", ("next", "observation")):
        assert rollout[key].shape == (2, 20, 16)
        assert (rollout[key].sum(-1) == 1).all()
    with pytest.raises(ConfigError, match="needs a Discrete observation, got Bounded"):
        make_env(EnvConfig("CartPole-v1", 2), transforms=[OneHotObservation()])


def test_shaped_reward_leaves_the_return_alone():
    def penalty(after: TensorDict) -> torch.Tensor:
        return torch.where(after["terminated"], -20.0, after["reward"])

    env = make_env(EnvConfig("tests/Counter-v0", 2), seed=0, transforms=[ShapeReward(penalty)])
    check_env_specs(env)
    rollout = env.rollout(3, break_when_any_done=False)
    assert rollout["next", "reward"][0].flatten().tolist() == [1, 2, -20]
    assert rollout["next", "episode_reward"][0].flatten().tolist() == [1, 3, 6]


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("CartPol-v1", "does not know; did you mean CartPole-v1"),
        ("CartPole-v7", "CartPole-v1"),
        ("nothing/like-this-v3", "does not know"),
    ],
)
def test_environments_that_cannot_be_had(env_id, message):
    with pytest.raises(ConfigError, match=message):
        make_env(EnvConfig(env_id))


@pytest.mark.parametrize(
    ("env_id", "extra", "package"), [("LunarLander-v3", "box2d", "Box2D"), ("Ant-v5", "mujoco", "mujoco")]
)
def test_a_missing_package_names_its_extra(env_id, extra, package, monkeypatch):
    for name in [name for name in sys.modules if name.startswith(("gymnasium.envs.mujoco", "gymnasium.envs.box2d"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf'needs a package that is missing: pip install "rlpipe\[{extra}\]"'):
        make_env(EnvConfig(env_id))


def test_next_step_autoreset_is_refused():
    envs = gym.make_vec("CartPole-v1", 2, vectorization_mode="sync")
    assert envs.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    with pytest.raises(ConfigError, match="needs AutoresetMode.SAME_STEP"):
        VectorEnv(envs)


def test_a_class_in_place_of_an_id(identical):
    from conftest import Counter

    rollouts = []
    for env_id in (Counter, "tests/Counter-v0"):
        torch.manual_seed(0)
        env = make_env(EnvConfig(env_id, 3, max_episode_steps=2), seed=0)
        rollouts.append(env.rollout(5, break_when_any_done=False))
    identical(*rollouts)
    assert evaluate(QActor(MLP(1, 2), env.action_spec), EnvConfig(Counter), episodes=2, seed=0).lengths == (3, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "asinc"}, "backend is 'asinc'; allowed are auto"),
        ({"num_envs": 0}, "num_envs is 0; allowed is a whole number, 1 or more"),
        ({"num_envs": True}, "num_envs is True"),
        ({"max_episode_steps": -1}, "max_episode_steps is -1"),
        ({"env_id": None}, "env_id is None; expected an id of Gymnasium, module:name, or the class"),
    ],
)
def test_configs_that_cannot_be(options, message):
    with pytest.raises(ConfigError, match=message):
        EnvConfig(**{"env_id": "CartPole-v1", **options})


def test_an_id_in_place_of_a_config():
    with pytest.raises(TypeError, match=r"got 'CartPole-v1', expected an EnvConfig"):
        make_env("CartPole-v1")
