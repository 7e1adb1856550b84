"""Rollouts of environments in tensors: equal to TorchRL's own, and without a copy to the host."""

import pytest
import torch
from small_recipes import BATCHES, plain, small
from standin import DEVICE, Away, standing_in
from tensor_envs import Walk, one_cartpole
from tensordict.nn import TensorDictSequential
from torchrl.collectors import Collector

from rlpipe.errors import TrainingError
from rlpipe.modules import MLP, CategoricalActor, EpsilonGreedy, GaussianActor, Linear
from rlpipe.pipelines.algorithms.recipes import builder
from rlpipe.pipelines.collectors.collector import SyncDataCollector
from rlpipe.pipelines.collectors.evaluation import evaluate
from rlpipe.pipelines.envs import BinObservation, EnvConfig, ShapeReward, make_env
from rlpipe.pipelines.envs.builtin.register import SIMULATORS
from rlpipe.pipelines.envs.normalization.running import RunningObservationNorm, RunningRewardNorm
from rlpipe.pipelines.envs.reward_shaping import make_shaping
from rlpipe.pipelines.envs.tensor.env import TensorEnv
from rlpipe.pipelines.training.finished_episodes import finished_episodes
from rlpipe.pipelines.training.metrics import numbers_of

STEPS = 12


def make_actor(env):
    features = env.observation_spec["observation"].shape[-1]
    generator = torch.Generator(env.device).manual_seed(1)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        if env.action_spec.dtype is torch.int64:
            return CategoricalActor(MLP(features, int(env.action_spec.space.n), (8,)), env.action_spec, generator)
        return GaussianActor(MLP(features, 1, (8,)), env.action_spec, generator)


def collect(kind, env, batches=3, **options):
    frames = env.batch_size[0] * STEPS
    collector = kind(env, make_actor(env), frames_per_batch=frames, total_frames=batches * frames, **options)
    assert kind is Collector or collector.is_lean()
    return list(collector)


@pytest.mark.parametrize("env_id", [*SIMULATORS, Walk, one_cartpole])
def test_a_batch_is_the_stock_collectors(env_id, identical):
    def make():
        shape = [ShapeReward(make_shaping("clip", 5))] if env_id is Walk else []
        return make_env(EnvConfig(env_id, 3, max_episode_steps=9), seed=4, transforms=shape)

    ours = collect(SyncDataCollector, make())
    theirs = collect(Collector, make(), auto_register_policy_transforms=False)
    assert sum(batch["next", "done"].sum() for batch in ours) > 3
    for one, other in zip(ours, theirs, strict=True):
        identical(one, other)
        assert one.names == other.names


@pytest.mark.parametrize("env_id", ["rlpipe/TorchPendulum-v0", Walk])
def test_running_normalisation_is_the_stock_collectors(env_id, identical):
    def make():
        norms = [RunningObservationNorm(["observation"]), RunningRewardNorm(0.9)]
        return make_env(EnvConfig(env_id, 3, max_episode_steps=9), seed=4, transforms=norms)

    one, other = make(), make()
    ours, theirs = collect(SyncDataCollector, one), collect(Collector, other, auto_register_policy_transforms=False)
    for mine, stock in zip(ours, theirs, strict=True):
        identical(mine, stock)
    assert ours[-1]["observation"].std() > 0.5


def test_running_normalisation_on_the_device(monkeypatch, identical):
    def make(device):
        norms = [RunningObservationNorm(), RunningRewardNorm(0.9)]
        config = EnvConfig("rlpipe/TorchPendulum-v0", 3, max_episode_steps=5)
        return make_env(config, seed=4, transforms=norms, device=device)

    expected = collect(SyncDataCollector, make("cpu"))
    with standing_in(monkeypatch):
        env = make(DEVICE)
        collector = SyncDataCollector(
            env, make_actor(env).to(DEVICE), frames_per_batch=3 * STEPS, total_frames=9 * STEPS, track_traj_ids=False
        )
        for batch, other in zip(collector, expected, strict=True):
            identical(batch.cpu(), other.exclude("collector"))


def test_bins_are_cut_on_the_device(monkeypatch):
    def make(device):
        bins = [BinObservation(3, (-1.0,) * 4, (1.0,) * 4)]
        return make_env(EnvConfig("rlpipe/TorchCartPole-v0", 3), seed=4, transforms=bins, device=device)

    expected = make("cpu").reset()["observation"]
    with standing_in(monkeypatch):
        seen = make(DEVICE).reset()["observation"]
        assert isinstance(seen, Away)
        assert torch.equal(seen.cpu(), expected)


def test_each_batch_begins_where_the_last_ended():
    env = make_env(EnvConfig("rlpipe/TorchCartPole-v0", 3), seed=0)
    whole = torch.cat(collect(SyncDataCollector, env), 1)
    going = ~whole["next", "done"][:, :-1, 0]
    assert torch.equal(whole["next", "observation"][:, :-1][going], whole["observation"][:, 1:][going])
    assert not torch.equal(whole["next", "observation"][:, :-1][~going], whole["observation"][:, 1:][~going])


@pytest.mark.parametrize("env_id", SIMULATORS)
def test_nothing_is_copied_to_the_host_in_a_step(env_id, monkeypatch, identical):
    expected = collect(SyncDataCollector, make_env(EnvConfig(env_id, 3, max_episode_steps=5), seed=4))
    with standing_in(monkeypatch) as standin:
        env = make_env(EnvConfig(env_id, 3, max_episode_steps=5), seed=4, device=DEVICE)
        collector = SyncDataCollector(
            env, make_actor(env).to(DEVICE), frames_per_batch=3 * STEPS, total_frames=9 * STEPS, track_traj_ids=False
        )
        standin.counted()
        for batch, other in zip(collector, expected, strict=True):
            # one wait a batch, for whether its numbers are finite, and none a step
            assert standin.counted() == (0, 0, 1)
            assert all(isinstance(each, Away) for each in batch.values(True, True))
            identical(batch.cpu(), other.exclude("collector"))
            standin.counted()


def test_a_copy_in_a_step_would_be_noticed(monkeypatch):
    with standing_in(monkeypatch) as standin:
        env = make_env(EnvConfig("rlpipe/TorchCartPole-v0", 3), seed=4, device=DEVICE).base_env
        env.restart()
        standin.counted()
        for spoil in (lambda seen: seen.cpu(), lambda seen: bool(seen.any())):
            env.advance(torch.ones(3, dtype=torch.int64, device=DEVICE))
            assert standin.counted() == (0, 0, 0)
            spoil(env.root["observation"])
            assert standin.counted() != (0, 0, 0)


@pytest.mark.parametrize("name", ["ppo", "dqn"])
def test_recipes_train_on_the_device_as_on_the_cpu(name, monkeypatch):
    options = {"env_id": "rlpipe/TorchCartPole-v0", "max_episode_steps": 6}
    config = small(name, "cpu", **options)
    expected = builder(name)(config)
    told = [(finished_episodes(batch), numbers_of(expected.learn(batch))) for batch in expected.collector]
    with standing_in(monkeypatch) as standin:
        pipeline = builder(name)(small(name, "cuda", **options))
        assert pipeline.collector.env.device == DEVICE
        standin.counted()
        for (episodes, scalars), batch in zip(told, pipeline.collector, strict=True):
            assert standin.counted() == (0, 0, 1)
            assert finished_episodes(batch) == episodes
            assert numbers_of(pipeline.learn(batch)) == scalars
            standin.counted()
        assert evaluate(pipeline.policy, config.env, episodes=3, seed=1) == evaluate(
            expected.policy, config.env, episodes=3, seed=1
        )
        weights = plain(pipeline.state["loss"].state_dict())
        pipeline.close()
    assert len(told) == BATCHES
    for key, value in expected.state["loss"].state_dict().items():
        assert torch.equal(weights[key], value)


def test_a_policy_elsewhere_is_brought_what_it_reads(monkeypatch, identical):
    expected = collect(SyncDataCollector, make_env(EnvConfig(Walk, 3), seed=4))
    with standing_in(monkeypatch):
        env = make_env(EnvConfig(Walk, 3), seed=4)
        actor = make_actor(env)
        actor.generator = torch.Generator(DEVICE).manual_seed(1)
        where = {"policy_device": DEVICE, "env_device": "cpu", "storing_device": DEVICE}
        collector = SyncDataCollector(
            env, actor.to(DEVICE), frames_per_batch=3 * STEPS, total_frames=9 * STEPS, **where
        )
        for batch, other in zip(collector, expected, strict=True):
            assert all(isinstance(each, Away) for each in batch.exclude("collector").values(True, True))
            identical(batch.cpu(), other)


class Faulty(Walk):
    def _step(self, tensordict):
        told = super()._step(tensordict)
        told["reward"][1] = torch.inf if self.place[1, 0] > 0 else torch.nan
        return told


def test_numbers_that_are_not_finite_end_the_rollout():
    with pytest.raises(TrainingError, match=r"a reward that is not finite: environment 1, step 0 of the batch"):
        collect(SyncDataCollector, make_env(EnvConfig(Faulty, 3), seed=0))


def test_exploration_outside_the_actor_is_collected():
    env = make_env(EnvConfig("rlpipe/TorchCartPole-v0", 4), seed=0)
    explorer = EpsilonGreedy(env.action_spec, Linear(1.0, 1.0, 10), torch.Generator().manual_seed(0))
    policy = TensorDictSequential(make_actor(env), explorer)
    collector = SyncDataCollector(env, policy, frames_per_batch=400, total_frames=400)
    assert collector.is_lean()
    assert 0.35 < next(iter(collector))["action"].float().mean() < 0.65


def test_it_is_a_tensor_env():
    assert isinstance(make_env(EnvConfig("rlpipe/TorchCartPole-v0")).base_env, TensorEnv)
    # images are drawn by Gymnasium's own, which has the same rules
    assert not isinstance(make_env(EnvConfig("rlpipe/TorchCartPole-v0", backend="sync")).base_env, TensorEnv)
