"""Recurrent policies learn what a policy without a memory cannot: to answer with a cue that is gone."""

import pytest

from rlpipe.pipelines.algorithms import a2c, ppo, reinforce
from rlpipe.pipelines.collectors.evaluation import evaluate

pytestmark = pytest.mark.learning

RECALL = {"env_id": "rlpipe/Recall-v0", "hidden": (16,), "recurrent_size": 16, "lr": 1e-2, "gamma": 0.95}
RECALL |= {"total_frames": 8000}
PPO = {"num_envs": 32, "rollout_steps": 10, "minibatch_size": 80, "env_kwargs": {"cues": 3, "wait": 3}}
SHORT = {"num_envs": 16, "rollout_steps": 6, "env_kwargs": {"cues": 2, "wait": 1}}


def answered(module, **settings):
    """The share of greedy answers that are right."""
    config = module.Config(**RECALL, **settings)
    pipeline = module.build(config)
    for batch in pipeline.collector:
        pipeline.learn(batch)
    pipeline.close()
    return evaluate(pipeline.policy, config.env, episodes=100, seed=100).mean


@pytest.mark.parametrize("recurrent", ["gru", pytest.param("lstm", marks=pytest.mark.slow)])
def test_ppo_remembers(recurrent, device):
    # five seeds gave 1.0 with each
    assert answered(ppo, recurrent=recurrent, device=device, **PPO) > 0.9


@pytest.mark.slow
def test_ppo_without_a_memory_does_not():
    # five seeds gave 0.27 to 0.35
    assert answered(ppo, **PPO) < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("module", [a2c, reinforce])
def test_the_others_remember(module, device):
    # five seeds gave 1.0 with each
    assert answered(module, recurrent="gru", device=device, **SHORT) > 0.9
