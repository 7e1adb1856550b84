"""SAC and TD3: what they are built of, what they refuse, and the spaces that they learn on."""

import dataclasses

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict

from rlpipe.errors import ConfigError
from rlpipe.modules import CNN, Flatten, GaussianNoise, OrnsteinUhlenbeck, RandomWarmup
from rlpipe.pipelines.algorithms import sac, td3
from rlpipe.pipelines.build.continuous import action_units
from rlpipe.pipelines.collectors.evaluation import evaluate

BOTH = pytest.mark.parametrize("module", [sac, td3])
SMALL = {"env_id": "Pendulum-v1", "num_envs": 2, "rollout_steps": 4, "hidden": (8,), "minibatch_size": 8}
SMALL |= {"warmup_frames": 16, "buffer_size": 64, "total_frames": 64, "max_episode_steps": 10}


class Given(gym.Env):
    """Spaces as they are given; the reward is minus the square of the first number of the action."""

    def __init__(self, observation, action):
        self.observation_space, self.action_space = observation, action

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), -float(np.square(action).flat[0]), False, False, {}


@pytest.fixture
def build(request):
    def make(module, **settings):
        config = module.Config(**{**SMALL, **settings})
        pipeline = module.build(config)
        request.addfinalizer(pipeline.close)
        return config, pipeline

    return make


def learned(pipeline):
    """The scalars of each batch."""
    torch.manual_seed(0)
    return [{key: value.item() for key, value in pipeline.learn(batch).items()} for batch in pipeline.collector]


def env_of(observation, action):
    # a fresh class for each, so that an environment has a name of its own
    return type("Env", (Given,), {"__init__": lambda self: Given.__init__(self, observation, action)})


@BOTH
def test_as_many_updates_as_frames_after_the_warmup(module, build):
    _, pipeline = build(module)
    scalars = learned(pipeline)
    assert [each["updates"] for each in scalars] == [0, *[8] * 7]
    names = {"loss_td", "loss_policy", "td_error", "q_mean"}
    assert names <= set(scalars[-1])
    _, pipeline = build(module, updates=3)
    assert learned(pipeline)[-1]["updates"] == 3


@BOTH
def test_the_first_actions_are_random_and_the_greedy_policy_is_not(module, build):
    _, pipeline = build(module)
    assert isinstance(pipeline.policy[-1], RandomWarmup)
    assert pipeline.policy[-1].schedule.frames == 16
    _, pipeline = build(module, random_warmup=False)
    assert not any(isinstance(each, RandomWarmup) for each in pipeline.policy)
    config, pipeline = build(module, warmup_frames=64)
    assert evaluate(pipeline.policy, config.env, episodes=2, seed=0) == evaluate(
        pipeline.policy, config.env, episodes=2, seed=0
    )


@BOTH
def test_a_recorded_run_is_an_eager_one(module, monkeypatch):
    ends = []
    for execution in ("recorded", "eager"):
        monkeypatch.setattr(module.Config, "execution", property(lambda _, chosen=execution: chosen))
        pipeline = module.build(module.Config(**SMALL))
        learned(pipeline)
        pipeline.close()
        ends.append(torch.cat([each.flatten() for each in pipeline.state["loss"].parameters()]))
    assert torch.equal(*ends)


def test_td3_delays_actor_and_targets(build):
    _, pipeline = build(td3, policy_delay=10_000)
    loss = pipeline.state["loss"]
    before = {name: each.clone() for name, each in loss.named_parameters()}
    learned(pipeline)
    moved = {name.split(".")[0] for name, each in loss.named_parameters() if not torch.equal(each, before[name])}
    assert moved == {"critics"}
    _, pipeline = build(td3)
    # 56 updates
    assert (learned(pipeline)[-1]["updates"], pipeline.state["target"].calls, pipeline.state["every"].calls) == (
        8,
        28,
        56,
    )


def test_the_noise_of_td3(build):
    _, pipeline = build(td3, noise_std=0.3)
    noise = pipeline.policy[1]
    assert (type(noise), noise.std) == (GaussianNoise, 0.3)
    _, pipeline = build(td3, noise_std=0.3, noise_steps=20.0)
    noise = pipeline.policy[1]
    assert (type(noise), noise.theta, noise.dt) == (OrnsteinUhlenbeck, 0.05, 1.0)
    # the variance v of x' = (1 - theta) x + sigma n has v = (1 - theta)^2 v + sigma^2
    assert noise.sigma**2 / (1 - 0.95**2) == pytest.approx(0.09)


def test_the_temperature_and_the_entropy_of_sac(build):
    _, pipeline = build(sac, env_id=env_of(Box(-1, 1, (3,)), Box(-8.0, 8.0, (2,))))
    loss = pipeline.state["loss"]
    assert loss.target_entropy == -2.0
    assert loss.log_scale == pytest.approx(2 * np.log(8.0))
    assert any(each is loss.log_alpha for group in pipeline.state["optimizer"].param_groups for each in group["params"])
    _, pipeline = build(sac, learn_alpha=False, alpha=0.25)
    assert learned(pipeline)[-1]["alpha"] == 0.25
    _, pipeline = build(sac, target_entropy=-0.5)
    assert pipeline.state["loss"].target_entropy == -0.5


@BOTH
def test_critics_see_actions_in_units_of_half_their_range(module, build):
    _, pipeline = build(module, env_id=env_of(Box(-1, 1, (3,)), Box(-1000.0, 1000.0, (1,))))
    critic = pipeline.state["loss"].critics[0]
    assert critic.network[0].scale.tolist() == [1.0, 1.0, 1.0, 1000.0]
    _, pipeline = build(module, env_id=env_of(Box(-1, 1, (3,)), Box(-1.0, 1.0, (1,))))
    assert not any(isinstance(each, Flatten) for each in pipeline.state["loss"].critics[0].network)
    # the last one is always 3
    odd = Box(np.float32([0, -np.inf, 3]), np.float32([8, np.inf, 3]))
    _, pipeline = build(module, env_id=env_of(Box(-1, 1, (3,)), odd))
    assert action_units(pipeline.policy[0]).tolist() == [4.0, 1.0, 1.0]


IMAGE = Box(0, 255, (3, 36, 36), np.uint8)


@BOTH
@pytest.mark.parametrize(
    ("observation", "action"),
    [
        pytest.param(Dict({"image": IMAGE, "speed": Box(-1, 1, (2,))}), Box(-1, 1, (2,)), marks=pytest.mark.slow),
        (Box(-1, 1, (2, 2)), Box(-2, 3, (2, 2))),
        (gym.spaces.Discrete(3), Box(-np.inf, np.inf, (1,))),
        (gym.spaces.MultiBinary(3), Box(0, np.inf, (1,))),
        (Box(-1, 1, (2,)), Box(0, 10, (2,), np.int64)),
    ],
    ids=["image", "matrix", "open", "half-open", "integers"],
)
def test_it_learns_on_any_observation_and_any_box(module, build, observation, action):
    _, pipeline = build(module, env_id=env_of(observation, action))
    scalars = learned(pipeline)
    assert scalars[-1]["updates"] == 8
    assert all(np.isfinite(value) for value in scalars[-1].values())
    if "image" in getattr(observation, "spaces", {}):
        critics = pipeline.state["loss"].critics
        assert [sum(isinstance(each, CNN) for each in critic.modules()) for critic in critics] == [1, 1]


@BOTH
@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("CartPole-v1", "env_id is 'CartPole-v1', whose actions are Discrete; {} needs Box actions, try dqn or ppo"),
        (
            env_of(Box(-1, 1, (2,)), Dict(a=Box(-1, 1))),
            "whose actions are a Dict or Tuple; {} needs Box actions, try ppo",
        ),
        (env_of(Box(-1, 1, (2,)), Box(-1, 1, (0,))), "whose actions have no numbers"),
    ],
    ids=["discrete", "dict", "empty"],
)
def test_other_actions_are_refused_in_one_line(module, env_id, message):
    with pytest.raises(ConfigError) as error:
        module.build(module.Config(**{**SMALL, "env_id": env_id}))
    assert message.format(module.__name__.rpartition(".")[2].upper()) in str(error.value)
    assert "\n" not in str(error.value)


@BOTH
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_steps": 5}, "n_steps is 5; allowed is at most 4, the rollout_steps"),
        ({"normalize_observation": True}, "time; use ppo, a2c or reinforce$"),
        ({"warmup_frames": 65}, "warmup_frames is 65; allowed is at most 64, the buffer_size"),
        ({"warmup_frames": 60, "total_frames": 50}, "warmup_frames is 60; allowed is at most 50, the total_frames"),
        ({"rollout_steps": 100}, "buffer_size is 64; allowed is 200 or more, the frames of a batch"),
    ],
)
def test_configs_that_cannot_be(module, settings, message):
    with pytest.raises(ConfigError, match=message):
        module.Config(**{**SMALL, **settings})


@BOTH
def test_a_pipeline_that_only_acts_has_a_small_buffer(module):
    config = module.Config(**{**SMALL, "buffer_size": 1_000_000_000})
    acting = config.to_act()
    assert acting.buffer_size == 16
    assert dataclasses.replace(acting, buffer_size=config.buffer_size) == dataclasses.replace(
        config, backend="auto", schedule=()
    )


@BOTH
def test_numbers_that_change_during_training(module, build):
    scheduled = ("tau=linear:0.1:0.2", "gamma=linear:0.9:0.99", "lr=linear:0.001:0")
    scheduled += (
        ("target_entropy=linear:-1:-2",) if module is sac else ("target_noise=linear:0.2:0", "policy_delay=linear:1:4")
    )
    _, pipeline = build(module, schedule=scheduled)
    assert len(pipeline.listeners) == len(scheduled)
    if module is sac:
        _, pipeline = build(module, schedule=("alpha=linear:1:0.5",), learn_alpha=False)
        assert len(pipeline.listeners) == 1
        with pytest.raises(ConfigError, match=r"alpha is linear.* cannot change during training"):
            build(module, schedule=("alpha=linear:1:0.5",))
    with pytest.raises(ConfigError, match=r"minibatch_size is linear.* cannot change during training"):
        build(module, schedule=("minibatch_size=linear:8:16",))
