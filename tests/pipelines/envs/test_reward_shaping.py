"""Shaped rewards by hand, and that reported returns stay the environment's own."""

import pytest
import torch
from tensordict import TensorDict
from torchrl.envs.utils import check_env_specs

from rlpipe.pipelines.algorithms import ppo, q_learning
from rlpipe.pipelines.build.environment import make_training_env
from rlpipe.pipelines.envs import EnvConfig, ShapeReward, make_env
from rlpipe.pipelines.envs.reward_shaping import make_shaping
from rlpipe.pipelines.seeding import Seeds


def after(position=0.0, angle=0.0, steps=7, ended=None, reward=1.0):
    """The `next` entries of one CartPole step; velocities are far from anything that matters."""
    flags = {key: torch.tensor([[key == ended]]) for key in ("terminated", "truncated")}
    entries = {
        "observation": torch.tensor([[position, 9.0, angle, 9.0]]),
        "reward": torch.tensor([[reward]]),
        "step_count": torch.tensor([[steps]]),
        "done": torch.tensor([[ended is not None]]),
    }
    return TensorDict({**entries, **flags}, [1])


@pytest.mark.parametrize(
    ("kind", "step", "expected"),
    [
        ("balance", {}, 1.0),
        ("balance", {"angle": 0.099, "position": -0.299}, 1.0),
        ("balance", {"angle": 0.11}, -1.0),
        ("balance", {"angle": -0.11}, -1.0),
        ("balance", {"position": 0.31}, -2.0),
        ("balance", {"position": -0.31}, -2.0),
        ("balance", {"position": 0.31, "angle": -0.11}, -3.0),
        ("balance", {"ended": "terminated"}, -20.0),
        ("balance", {"position": 2.5, "angle": 0.3, "ended": "terminated"}, -20.0),
        ("balance", {"ended": "truncated"}, 1.0),
        ("balance", {"angle": 0.11, "ended": "truncated"}, -1.0),
        ("outcome", {}, 0.0),
        ("outcome", {"steps": 50}, 0.0),
        ("outcome", {"steps": 49, "ended": "terminated"}, -1.0),
        ("outcome", {"steps": 49, "ended": "truncated"}, -1.0),
        ("outcome", {"steps": 50, "ended": "terminated"}, 1.0),
        ("outcome", {"steps": 50, "ended": "truncated"}, 1.0),
        ("fall", {}, 1.0),
        ("fall", {"steps": 49, "ended": "terminated"}, -10.0),
        ("fall", {"steps": 50, "ended": "terminated"}, 1.0),
        ("fall", {"steps": 49, "ended": "truncated"}, 1.0),
        ("clip", {"reward": 200.0}, 1.0),
        ("clip", {"reward": -7.0}, -1.0),
        ("clip", {"reward": 0.0, "ended": "terminated"}, 0.0),
    ],
)
def test_by_hand(kind, step, expected):
    shaped = make_shaping(kind, 50)(after(**step))
    assert shaped.shape == (1, 1)
    assert shaped.item() == expected


def test_none_is_no_shaping():
    assert make_shaping("none", 50) is None


@pytest.mark.parametrize("kind", ["balance", "outcome", "fall"])
def test_any_batch_shape_and_an_input_that_is_left_alone(kind, identical):
    steps = [after(), after(angle=0.2), after(ended="terminated"), after(ended="truncated", steps=50)]
    batch = torch.cat([*steps, *steps[:2]]).reshape(2, 3)
    before = batch.clone()
    shaped = make_shaping(kind, 50)(batch)
    identical(batch, before)
    expected = [make_shaping(kind, 50)(step).item() for step in [*steps, *steps[:2]]]
    assert shaped.shape == (2, 3, 1)
    assert shaped.flatten().tolist() == expected


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("kind", ["balance", "outcome", "fall"])
def test_the_return_stays_the_environments_own(kind, num_envs):
    env = make_env(EnvConfig("CartPole-v1", num_envs), seed=0, transforms=[ShapeReward(make_shaping(kind, 500))])
    check_env_specs(env)
    torch.manual_seed(0)
    rollout = env.rollout(80, break_when_any_done=False)["next"]
    assert torch.equal(rollout["episode_reward"], rollout["step_count"].float())
    expected = {"balance": -20.0, "outcome": -1.0, "fall": -10.0}[kind]
    assert rollout["terminated"].any()
    assert (rollout["reward"][rollout["terminated"]] == expected).all()
    assert torch.equal(
        rollout["reward"],
        make_shaping(kind, 500)(rollout.exclude("reward").set("reward", torch.ones(num_envs, 80, 1))).float(),
    )


def test_shaping_sees_the_environments_own_observation_whatever_follows():
    bins = {"bins": 4, "bin_low": (-1.0,) * 4, "bin_high": (1.0,) * 4}
    pipelines = [
        q_learning.build(q_learning.Config(env_id="CartPole-v1", num_envs=3, rollout_steps=60, **bins, **shaping))
        for shaping in ({}, {"reward_shaping": "balance"})
    ]
    plain, shaped = (next(iter(pipeline.collector)) for pipeline in pipelines)
    assert torch.equal(plain["action"], shaped["action"])
    raw = make_env(EnvConfig("CartPole-v1", 3), seed=Seeds(0).integer("environments"))
    actions = iter(plain["action"].unbind(-1))
    rollout = raw.rollout(60, lambda td: td.set("action", next(actions)), break_when_any_done=False)
    assert torch.equal(shaped["next", "reward"], make_shaping("balance", 500)(rollout["next"]))
    for pipeline in pipelines:
        pipeline.close()


def test_shaping_comes_before_normalisation():
    config = ppo.Config(num_envs=3, minibatch_size=96, reward_shaping="balance", normalize_observation=True)
    env = make_training_env(config, Seeds(0))
    plain = make_env(config.env, seed=Seeds(0).integer("environments"))
    rollouts = []
    for each in (env, plain):
        torch.manual_seed(0)
        rollouts.append(each.rollout(50, break_when_any_done=False)["next"])
    assert not torch.equal(rollouts[0]["observation"], rollouts[1]["observation"])
    assert torch.equal(rollouts[0]["reward"], make_shaping("balance", 500)(rollouts[1]))
