"""Agents learn: tiny environments in seconds, CartPole to its threshold, judged by greedy evaluation."""

import dataclasses

import pytest

from rlpipe.pipelines.algorithms import a2c, dqn, ppo, q_learning, qr_dqn, reinforce, sac, td3
from rlpipe.pipelines.algorithms.recipes import builder, find_recipe
from rlpipe.pipelines.collectors.evaluation import evaluate
from rlpipe.pipelines.training.finished_episodes import finished_episodes

pytestmark = pytest.mark.learning


def train_and_evaluate(module, episodes=20, **settings):
    config = module.Config(**settings)
    pipeline = module.build(config)
    for batch in pipeline.collector:
        pipeline.learn(batch)
    pipeline.close()
    return evaluate(pipeline.policy, config.env, episodes=episodes, seed=100)


PPO = {"num_envs": 8, "rollout_steps": 16, "minibatch_size": 64, "epochs": 4, "hidden": (32,), "lr": 5e-3, "gamma": 0.0}
SIMPLE = {"num_envs": 8, "rollout_steps": 5, "hidden": (32,), "lr": 1e-2, "gamma": 0.0}
DQN = {"num_envs": 8, "rollout_steps": 4, "updates": 8, "warmup_frames": 128, "epsilon_frames": 1000, "hidden": (32,)}


def test_ppo_learns_identity(device):
    settings = {**PPO, "device": device, "cuda_graphs": device == "cuda"}
    assert train_and_evaluate(ppo, env_id="tests/Identity-v0", total_frames=3000, **settings).mean == 10.0


def test_ppo_learns_identity_with_box_actions(device):
    # a random agent's return is about -12, and 0 is perfect
    settings = {**PPO, "total_frames": 10_000, "device": device}
    assert train_and_evaluate(ppo, env_id="tests/IdentityBox-v0", **settings).mean > -1.5


def test_ppo_learns_to_balance_in_tensors(device):
    # a random agent's return is about 22; five seeds gave 84 to 100, which is all there is
    settings = {**PPO, "num_envs": 64, "rollout_steps": 32, "minibatch_size": 256, "epochs": 6, "hidden": (64,)}
    settings |= {"lr": 3e-3, "gamma": 0.98, "total_frames": 40_000, "max_episode_steps": 100, "device": device}
    assert train_and_evaluate(ppo, env_id="rlpipe/TorchCartPole-v0", **settings).mean > 60


@pytest.mark.parametrize("options", [{}, {"double": True, "dueling": True}])
def test_dqn_learns_identity(options, device):
    settings = {**DQN, "gamma": 0.0, "lr": 5e-3, "device": device, **options}
    assert train_and_evaluate(dqn, env_id="tests/Identity-v0", total_frames=3000, **settings).mean == 10.0


def test_qr_dqn_learns_identity(device):
    settings = {**DQN, "gamma": 0.0, "lr": 5e-3, "quantiles": 5, "device": device}
    assert train_and_evaluate(qr_dqn, env_id="tests/Identity-v0", total_frames=1500, **settings).mean == 10.0


@pytest.mark.parametrize("baseline", [False, True])
def test_reinforce_learns_identity(baseline, device):
    settings = {**SIMPLE, "total_frames": 6000, "baseline": baseline, "device": device}
    assert train_and_evaluate(reinforce, env_id="tests/Identity-v0", **settings).mean == 10.0


def test_a2c_learns_identity(device):
    settings = {**SIMPLE, "total_frames": 6000, "device": device}
    assert train_and_evaluate(a2c, env_id="tests/Identity-v0", **settings).mean == 10.0


def test_a_state_dependent_std_learns_identity_with_box_actions():
    settings = {**PPO, "total_frames": 10_000, "state_dependent_std": True}
    assert train_and_evaluate(ppo, env_id="tests/IdentityBox-v0", **settings).mean > -1.5


@pytest.mark.parametrize("module", [sac, td3])
def test_sac_and_td3_learn_identity_with_box_actions(module, device):
    settings = {"num_envs": 8, "updates": 8, "warmup_frames": 256, "minibatch_size": 64, "hidden": (32,), "lr": 5e-3}
    settings |= {"gamma": 0.0, "total_frames": 2500, "device": device}
    assert train_and_evaluate(module, env_id="tests/IdentityBox-v0", **settings).mean > -1.5


@pytest.mark.slow
@pytest.mark.parametrize("module", [sac, td3])
def test_the_pendulum_is_held_up(module, device):
    # a random agent's return is about -1200
    settings = {"num_envs": 8, "updates": 16, "minibatch_size": 128, "hidden": (64, 64), "lr": 2e-3, "tau": 0.01}
    settings |= {"total_frames": 9_600, "device": device}
    assert train_and_evaluate(module, episodes=100, **settings).mean > -220


@pytest.mark.slow
@pytest.mark.parametrize("module", [ppo, dqn, qr_dqn, a2c, reinforce])
def test_cartpole_is_solved(module, device):
    # on another device samples are others, and no figure was taken there; ppo's default is restless: this seed ends
    # with 337 on one kind of processor and with 500 on another, which rounds differently; five seeds of qr_dqn end with
    # 456 to 500
    least = {ppo: 250, qr_dqn: 400}.get(module, 475)
    enough = least if device == "cpu" else 200
    assert train_and_evaluate(module, episodes=100, device=device).mean >= enough


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 5))])
@pytest.mark.parametrize("name", ["q-learning/maze", "sarsa/maze", "policy-gradient/maze"])
def test_the_shortest_way_through_the_maze_is_found(name, seed):
    config = dataclasses.replace(find_recipe(name).config(), seed=seed)
    pipeline = builder(find_recipe(name).algorithm)(config)
    episodes = 0
    for batch in pipeline.collector:
        pipeline.learn(batch)
        episodes += len(finished_episodes(batch)[0])
        # the policy gradient's own end is some ten thousand episodes later
        if episodes >= (400 if name == "policy-gradient/maze" else 100):
            break
    pipeline.close()
    found = evaluate(pipeline.policy, config.env, episodes=2, seed=100)
    assert found.lengths == (6, 6)
    assert found.returns == (1.0, 1.0)


@pytest.mark.slow
def test_q_learning_crosses_frozen_lake():
    settings = {"env_id": "FrozenLake-v1", "total_episodes": None, "total_frames": 40_000, "gamma": 0.99}
    exploring = {"epsilon_schedule": "linear", "epsilon_start": 1.0, "epsilon_end": 0.1, "epsilon_frames": 20_000}
    more = {**settings, **exploring, "num_envs": 8, "rollout_steps": 4}
    # slippery: 0.74 is the best there is, and a random agent's is 0.015
    assert train_and_evaluate(q_learning, episodes=200, **more).mean > 0.5
