"""The TorchRL baseline: what it is made of, that it learns, and where it does the same as rlpipe."""

import importlib
from dataclasses import replace
from itertools import islice

import pytest
import torch
from tensordict import TensorDict
from torch import nn
from torchrl.data import Categorical
from torchrl.envs import GymEnv, GymWrapper, SerialEnv
from torchrl.objectives.value import GAE as StockGAE

from rlpipe.errors import ConfigError
from rlpipe.losses import GAE, NStep
from rlpipe.pipelines.algorithms.recipes import builder, config_class
from rlpipe.pipelines.collectors.evaluation import evaluate
from rlpipe.pipelines.envs import EnvConfig
from rlpipe.scripts.baselines.sb3 import build_sb3, sb3_policy, sb3_rollout
from rlpipe.scripts.baselines.torchrl_loop import build_stock, look_ahead
from rlpipe.scripts.baselines.torchrl_parts import (
    stock_actor,
    stock_collector,
    stock_env,
    stock_loss,
    stock_q_actor,
    stock_target,
)
from rlpipe.scripts.baselines.torchrl_trainer import build_trainer, stop_when

ALGORITHMS = ["dqn", "reinforce", "a2c", "ppo"]
SMALL = {
    "dqn": {"num_envs": 4, "rollout_steps": 8, "updates": 2, "minibatch_size": 16, "warmup_frames": 40},
    "reinforce": {"num_envs": 4, "rollout_steps": 125},
    "a2c": {"num_envs": 4, "rollout_steps": 8},
    "ppo": {"num_envs": 4, "rollout_steps": 8, "minibatch_size": 16, "epochs": 2},
}


def small(algorithm, **settings):
    return config_class(algorithm)(seed=3, **{**SMALL[algorithm], "total_frames": 2_000, **settings})


def copies(module):
    return [parameter.detach().clone() for parameter in module.parameters()]


def moved(before, module):
    return [not torch.equal(old, new) for old, new in zip(before, module.parameters(), strict=True)]


KINDS = [
    (1, None, GymEnv),
    (3, None, GymWrapper),
    (1, "same step", GymWrapper),
    (3, "same step", GymWrapper),
    (3, "serial", SerialEnv),
]


@pytest.mark.parametrize(("num_envs", "kind", "expected"), KINDS)
def test_environments_and_collector_give_batches(num_envs, kind, expected):
    # a pole that falls within 40 steps, as nearly all do
    torch.manual_seed(0)
    env = stock_env("CartPole-v1", num_envs, seed=0, kind=kind)
    assert isinstance(env.base_env, expected)
    actor = stock_actor(nn.Linear(4, 2), env.action_spec)
    collector = stock_collector(env, actor, frames_per_batch=num_envs * 40)
    batch = next(iter(collector))
    collector.shutdown()
    assert batch.shape == ((40,) if expected is GymEnv else (num_envs, 40))
    assert batch["action"].dtype == torch.int64
    assert batch["action_log_prob"].shape == batch.shape
    assert batch["next", "done"].any()
    assert batch["next", "episode_reward"][batch["next", "done"]].min() > 1


@pytest.mark.parametrize("kind", ["vector", "same step", "serial"])
def test_an_episode_ends_with_its_own_last_observation(kind):
    torch.manual_seed(0)
    env = stock_env("CartPole-v1", 3, seed=0, kind=kind)
    collector = stock_collector(env, stock_actor(nn.Linear(4, 2), env.action_spec), frames_per_batch=3 * 100)
    batch = next(iter(collector))
    collector.shutdown()
    # the batch says of the last step what only the next batch shows
    ended = batch["next", "done"][:, :-1, 0]
    goes_on = (batch["observation"][:, 1:] == batch["next", "observation"][:, :-1]).all(-1)
    assert torch.equal(goes_on, ~ended)
    assert ended.sum() > 3
    last = batch["next", "observation"][:, :-1][ended]
    assert ((last[:, 0].abs() > 2.4) | (last[:, 2].abs() > 0.2094)).all()
    assert batch["observation"][:, 1:][ended].abs().max() <= 0.05
    counts = batch["next", "step_count"][:, :-1][ended]
    assert torch.equal(counts.float(), batch["next", "episode_reward"][:, :-1][ended])
    assert batch["step_count"][:, 1:][ended].sum() == 0


def test_the_kinds_of_environments_have_names():
    with pytest.raises(ValueError, match="kind is 'fast'; allowed are 'single', 'vector', 'same step'"):
        stock_env("CartPole-v1", 2, seed=0, kind="fast")


def test_parallel_takes_a_process_for_each(monkeypatch):
    # processes take seconds to start, and are TorchRL's affair
    made = []
    monkeypatch.setattr(
        "rlpipe.scripts.baselines.torchrl_parts.ParallelEnv", lambda *args: made.append(args) or SerialEnv(*args)
    )
    stock_env("CartPole-v1", 2, seed=0, kind="parallel")
    stock_env("CartPole-v1", 2, seed=0, kind="serial")
    assert [args[0] for args in made] == [2]


@pytest.mark.parametrize("kind", ["vector", "same step", "serial"])
def test_the_seed_fixes_the_environment(kind):
    envs = [stock_env("CartPole-v1", 2, seed=seed, kind=kind) for seed in (5, 5, 6)]
    first, again, other = (env.reset()["observation"] for env in envs)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_box_actions_stay_within_their_bounds_in_any_batch():
    env = stock_env("Pendulum-v1", 2, seed=0)
    actor = stock_actor(nn.Linear(3, 2), env.action_spec)
    action = actor(TensorDict({"observation": torch.randn(7, 3)}, [7]))["action"]
    assert action.shape == (7, 1)
    assert action.abs().max() <= 2.0


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_first_weights_are_those_of_build(algorithm):
    config = small(algorithm)
    ours, stock = builder(algorithm)(config), build_stock(algorithm, config)
    theirs = list(stock.policy.parameters())
    for mine, other in zip(ours.policy.parameters(), theirs, strict=True):
        assert torch.equal(mine, other)
    if algorithm in ("a2c", "ppo"):
        critic = stock.state["loss"].critic_network_params.values(True, True)
        for mine, other in zip(ours.state["loss"].critic.parameters(), critic, strict=True):
            assert torch.equal(mine, other)
    ours.close()
    stock.close()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_stock_parts_train(algorithm):
    pipeline = build_stock(algorithm, small(algorithm))
    before, updates = copies(pipeline.policy), 0
    for batch in islice(pipeline.collector, 3):
        scalars = pipeline.learn(batch)
        updates += int(scalars["updates"])
    pipeline.close()
    # DQN stores one batch before it has its 40 frames
    assert updates == {"dqn": 4, "reinforce": 3, "a2c": 3, "ppo": 12}[algorithm]
    assert all(value.isfinite().all() for value in scalars.values())
    assert all(moved(before, pipeline.policy))
    assert evaluate(pipeline.policy, EnvConfig("CartPole-v1"), episodes=2, seed=0).mean > 1


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_trainer_classes_train_and_stop(algorithm):
    config = small(algorithm)
    trainer, policy = build_trainer(algorithm, config)
    before, frames = copies(policy), config.num_envs * config.rollout_steps
    seen = []
    stop_when(trainer, policy, lambda policy, so_far: seen.append(so_far) or so_far >= 3 * frames)
    trainer.train()
    assert seen == [frames, 2 * frames, 3 * frames]
    assert all(moved(before, policy))


def test_the_learning_rate_falls_as_ours_does():
    config = small("ppo", total_frames=96)
    pipeline = build_stock("ppo", config)
    before = copies(pipeline.policy)
    assert len([pipeline.learn(batch) for batch in pipeline.collector]) == 3
    moved_most = max((old - new).abs().max() for old, new in zip(before, pipeline.policy.parameters(), strict=True))
    # 4 updates at each of lr, 2/3 lr and 1/3 lr; Adam moves a weight by little more than lr in an update
    assert moved_most < 1.1 * config.lr * 8


def test_epsilon_falls_as_ours_does():
    config = small("dqn", epsilon_frames=200)
    ours, stock = builder("dqn")(config), build_stock("dqn", config)
    for mine, theirs in islice(zip(ours.collector, stock.collector, strict=False), 3):
        epsilon = ours.learn(mine)["epsilon"]
        stock.learn(theirs)
        torch.testing.assert_close(stock.policy[1].eps, epsilon)
    ours.close()
    stock.close()


def test_n_steps_are_ours():
    config = small("dqn", n_steps=3)
    pipeline = build_stock("dqn", config)
    batch = next(iter(pipeline.collector)).clone()
    batch["next", "reward"] = torch.randn(4, 8, 1)
    ended = torch.rand(4, 8, 1) < 0.3
    batch["next", "terminated"], batch["next", "done"] = ended & (torch.rand(4, 8, 1) < 0.5), ended
    ours, stock = NStep(gamma=config.gamma, n=3)(batch), look_ahead(config)(batch)
    pipeline.close()
    for key in ("observation", "reward", "terminated"):
        torch.testing.assert_close(stock["next", key], ours["next", key])
    discount = stock["gamma"].unsqueeze(-1) * ~stock["next", "terminated"]
    torch.testing.assert_close(discount, ours["next", "discount"])


def test_advantages_are_ours():
    config = small("a2c", normalize_advantage=False, lmbda=0.9)
    pipeline = build_stock("a2c", config)
    batch, critic = next(iter(pipeline.collector)), pipeline.state["loss"].critic_network
    pipeline.close()
    ours = GAE(critic, gamma=0.99, lmbda=0.9)(batch.clone())
    stock = StockGAE(gamma=0.99, lmbda=0.9, value_network=critic, vectorized=True)(batch.clone())
    torch.testing.assert_close(stock["advantage"], ours["advantage"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("tau", "every"), [(0.25, 1), (1.0, 1), (1.0, 3)])
def test_the_target_network_follows_as_ours_does(tau, every):
    config = config_class("dqn")(tau=tau, target_every=every)
    network = nn.Linear(4, 2)
    loss = stock_loss("dqn", config, stock_q_actor(network, Categorical(2)))
    target = stock_target(loss, config)
    start, expected = network.bias.detach().clone(), network.bias.detach().clone()
    for call in range(1, 8):
        with torch.no_grad():
            network.bias.copy_(start + call)
        target.step()
        if call % every == 0:
            expected = expected + tau * (network.bias.detach() - expected)
        followed = loss.target_value_network_params["module", "0", "module", "bias"]
        torch.testing.assert_close(followed, expected)


@pytest.mark.parametrize(
    ("algorithm", "settings", "match"),
    [
        ("dqn", {"reward_shaping": "balance"}, "reward_shaping is 'balance'"),
        ("dqn", {"epsilon_schedule": "harmonic"}, "epsilon_schedule is 'harmonic'"),
        ("ppo", {"env_id": "Pendulum-v1"}, "state_dependent_std is False"),
    ],
)
def test_what_stock_parts_lack_is_refused(algorithm, settings, match):
    with pytest.raises(ConfigError, match=match):
        build_stock(algorithm, replace(small(algorithm), **settings))


def test_box_actions_train_too():
    pipeline = build_stock("ppo", small("ppo", env_id="Pendulum-v1", state_dependent_std=True))
    before = copies(pipeline.policy)
    pipeline.learn(next(iter(pipeline.collector)))
    pipeline.close()
    assert all(moved(before, pipeline.policy))


def test_without_stable_baselines_it_says_what_to_install(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ConfigError, match=r'pip install "rlpipe\[benchmark\]"'):
        sb3_rollout("CartPole-v1", 1, steps=2, seed=0)


@pytest.mark.parametrize("num_envs", [1, 3])
def test_stable_baselines_collects_rollouts(num_envs):
    pytest.importorskip("stable_baselines3", reason="needs the extra rlpipe[benchmark]")
    collect, close = sb3_rollout("CartPole-v1", num_envs, steps=5, seed=0)
    assert collect()
    assert collect()
    close()


@pytest.mark.parametrize("algorithm", ["dqn", "a2c", "ppo"])
def test_stable_baselines_trains_until_told_to_stop(algorithm):
    pytest.importorskip("stable_baselines3", reason="needs the extra rlpipe[benchmark]")
    seen, policies = [], []

    def check(policy, frames):
        seen.append(frames)
        policies.append(policy)
        return frames >= 80

    train, close = build_sb3(algorithm, 0)
    assert seen == []
    train(check)
    close()
    assert seen[-1] == 80
    assert seen == sorted(seen)
    evaluation = evaluate(policies[-1], EnvConfig("CartPole-v1"), episodes=3, seed=0)
    assert evaluation == evaluate(policies[-1], EnvConfig("CartPole-v1"), episodes=3, seed=0)


def test_stable_baselines_policy_is_greedy():
    sb3 = pytest.importorskip("stable_baselines3", reason="needs the extra rlpipe[benchmark]")
    model = sb3.PPO("MlpPolicy", "CartPole-v1", device="cpu")
    observation = torch.randn(9, 4)
    action = sb3_policy(model.policy)(TensorDict({"observation": observation}, [9]))["action"]
    assert action.tolist() == model.predict(observation.numpy(), deterministic=True)[0].tolist()
