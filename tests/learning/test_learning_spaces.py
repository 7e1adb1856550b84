"""Agents learn to read every entry of an observation, and to use every part of an action, judged greedily."""

import matching  # noqa: F401 - registers the environments
import pytest

from rlpipe.pipelines.algorithms import a2c, dqn, ppo, reinforce
from rlpipe.pipelines.collectors.evaluation import evaluate

pytestmark = pytest.mark.learning
COMMON = {"num_envs": 8, "hidden": (32,), "gamma": 0.0, "activation": "tanh"}
PPO = {**COMMON, "rollout_steps": 16, "minibatch_size": 64, "epochs": 4, "lr": 1e-2, "total_frames": 1_500}
SIMPLE = {**COMMON, "rollout_steps": 10, "lr": 2e-2, "total_frames": 4_000}
DQN = {**COMMON, "rollout_steps": 4, "n_steps": 1, "updates": 4, "warmup_frames": 128, "epsilon_frames": 1_000}
DQN |= {"lr": 5e-3, "total_frames": 1_500, "layer_norm": True}
BLIND = 5.0
"""The return of a policy that ignores the observation; one that reads two bits of three has 8.3, all three 10."""


def learned(module, kinds, **settings):
    config = module.Config(env_id=f"tests/Match-{kinds}-v0", **settings)
    pipeline = module.build(config)
    for batch in pipeline.collector:
        pipeline.learn(batch)
    pipeline.close()
    return evaluate(pipeline.policy, config.env, episodes=10, seed=100).mean


CAMERA = pytest.param("camera", marks=pytest.mark.slow)


@pytest.mark.parametrize("observed", ["multi_discrete", "multi_binary", "dict", "tuple", CAMERA])
def test_ppo_reads_every_entry(observed):
    assert learned(ppo, f"{observed}-multi_binary", **PPO) > 9.5


@pytest.mark.parametrize("acted", ["multi_discrete", "matrix", "dict", "tuple"])
def test_ppo_uses_every_part_of_the_action(acted):
    assert learned(ppo, f"box-{acted}", **PPO) > 9.5


@pytest.mark.parametrize("acted", ["multi_discrete", "multi_binary", "dict"])
@pytest.mark.parametrize("module", [a2c, reinforce])
def test_policy_gradients_do(module, acted):
    assert learned(module, f"dict-{acted}", **SIMPLE) > 9.5


@pytest.mark.parametrize("acted", ["multi_discrete", "matrix", "multi_binary"])
def test_dqn_does(acted):
    assert learned(dqn, f"tuple-{acted}", **DQN) > 9.5
