"""Every kind of space is learned: each entry of an observation is read, and each part of an action is used."""

import pytest
from kinds import ACTIONS, ENTRIES, STEPS, acts, reads

from rlpipe.pipelines.algorithms import a2c, dqn, ppo, reinforce
from rlpipe.pipelines.collectors.evaluation import evaluate

pytestmark = pytest.mark.learning

SHARED = {"num_envs": 16, "hidden": (32,), "gamma": 0.0}
SETTINGS = {
    ppo: {**SHARED, "rollout_steps": 16, "minibatch_size": 64, "epochs": 4, "lr": 1e-2},
    a2c: {**SHARED, "rollout_steps": 5, "lr": 1e-2},
    reinforce: {**SHARED, "rollout_steps": 8, "lr": 1e-2},
    dqn: {**SHARED, "rollout_steps": 4, "updates": 8, "warmup_frames": 128, "epsilon_frames": 1000, "lr": 5e-3},
}


def reward_of(module, env_id, frames, **options):
    """The mean reward of a step, of the greedy policy."""
    config = module.Config(env_id=env_id, total_frames=frames, **{**SETTINGS[module], **options})
    pipeline = module.build(config)
    for batch in pipeline.collector:
        pipeline.learn(batch)
    pipeline.close()
    return evaluate(pipeline.policy, config.env, episodes=16, seed=100, num_envs=16).mean / STEPS


@pytest.mark.parametrize(("kind", "key"), ENTRIES)
def test_each_entry_is_read(kind, key):
    # half of the reward comes without reading; convolutions of small, noisy steps
    options = {"lr": 3e-4, "frames": 3072} if key == "camera" else {"frames": 1536}
    assert reward_of(ppo, reads(kind, key), **options) == 1.0


@pytest.mark.parametrize("kind", ACTIONS)
def test_each_part_of_an_action_is_used(kind):
    # the smallest part of an action is a sixth of the reward
    assert reward_of(ppo, acts(kind), 4096) > 0.9


@pytest.mark.parametrize(
    ("module", "env_id", "frames"),
    [
        (a2c, reads("nested", ("robot", "arms", "1")), 4000),
        (a2c, acts("tuple"), 4000),
        (reinforce, reads("nested", ("robot", "mode")), 4000),
        (reinforce, acts("multi-discrete-2d"), 8000),
        (dqn, reads("nested", ("robot", "keys")), 2000),
        (dqn, reads("tuple", "1"), 2000),
        (dqn, acts("multi-discrete"), 2000),
    ],
)
def test_other_algorithms_do_too(module, env_id, frames):
    assert reward_of(module, env_id, frames) > 0.95
