"""Agents learn: tiny environments in seconds, CartPole to its threshold, judged by greedy evaluation."""

import pytest

from rlpipe.pipelines import dqn, ppo
from rlpipe.pipelines.evaluation import evaluate

pytestmark = pytest.mark.learning


def train_and_evaluate(module, episodes=20, **settings):
    config = module.Config(**settings)
    pipeline = module.build(config)
    for batch in pipeline.collector:
        pipeline.learn(batch)
    pipeline.close()
    return evaluate(pipeline.policy, config.env, episodes=episodes, seed=100)


PPO = {"num_envs": 8, "rollout_steps": 16, "minibatch_size": 64, "epochs": 4, "hidden": (32,), "lr": 5e-3, "gamma": 0.0}
DQN = {"num_envs": 8, "rollout_steps": 4, "updates": 8, "warmup_frames": 128, "epsilon_frames": 1000, "hidden": (32,)}


def test_ppo_learns_identity():
    assert train_and_evaluate(ppo, env_id="tests/Identity-v0", total_frames=3000, **PPO).mean == 10.0


def test_ppo_learns_identity_with_box_actions():
    # a random agent's return is about -12, and 0 is perfect
    settings = {**PPO, "total_frames": 10_000}
    assert train_and_evaluate(ppo, env_id="tests/IdentityBox-v0", **settings).mean > -1.5


@pytest.mark.parametrize("options", [{}, {"double": True, "dueling": True}])
def test_dqn_learns_identity(options):
    settings = {**DQN, "gamma": 0.0, "lr": 5e-3, **options}
    assert train_and_evaluate(dqn, env_id="tests/Identity-v0", total_frames=3000, **settings).mean == 10.0


def test_ppo_solves_cartpole():
    assert train_and_evaluate(ppo, episodes=100).mean >= 475


def test_dqn_solves_cartpole():
    assert train_and_evaluate(dqn, episodes=100).mean >= 475
