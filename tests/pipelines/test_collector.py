"""The lean collector against the stock one, bit for bit; and the stock path wherever the lean one does not serve."""

import pytest
import torch
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, ReplayBuffer
from torchrl.envs import GymEnv, RewardSum
from torchrl.modules import ProbabilisticActor

from rlpipe.modules import MLP, CategoricalActor, GaussianActor, encoder
from rlpipe.pipelines.collector import SyncDataCollector
from rlpipe.pipelines.envs import EnvConfig, make_env


def make_policy(env, stock=False):
    torch.manual_seed(0)
    first = encoder(env.observation_spec["observation"], len(env.batch_size))
    if env.action_spec.dtype.is_floating_point:
        outputs = env.action_spec.shape[-1]
        return GaussianActor(nn.Sequential(first, MLP(first.features, outputs)), env.action_spec)
    network = nn.Sequential(first, MLP(first.features, int(env.action_spec.space.n)))
    if stock:
        logits = TensorDictModule(network, in_keys=["observation"], out_keys=["logits"])
        distribution = torch.distributions.Categorical
        return ProbabilisticActor(logits, in_keys=["logits"], distribution_class=distribution, return_log_prob=True)
    return CategoricalActor(network, env.action_spec)


def collect(kind, env, policy, batches=4, steps=25, **options):
    collector = kind(
        env,
        policy,
        frames_per_batch=steps * env.batch_size.numel(),
        total_frames=batches * steps * env.batch_size.numel(),
        auto_register_policy_transforms=False,
        **options,
    )
    torch.manual_seed(1)
    return list(collector)


@pytest.fixture
def lean_only(monkeypatch):
    """Fail if the stock rollout is taken."""

    def refuse(self):
        raise AssertionError("the stock rollout was taken")

    monkeypatch.setattr(Collector, "rollout", refuse)


@pytest.fixture
def stock_rollouts(monkeypatch):
    """Count how often the stock rollout is taken."""
    taken = []
    stock = Collector.rollout

    def count(self):
        taken.append(1)
        return stock(self)

    monkeypatch.setattr(Collector, "rollout", count)
    return taken


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", "FrozenLake-v1", "tests/Counter-v0"])
@pytest.mark.parametrize("num_envs", [1, 5])
@pytest.mark.parametrize("options", [{}, {"track_traj_ids": False}])
def test_equals_the_stock_collector_bit_for_bit(env_id, num_envs, options, identical):
    batches = []
    for kind in (Collector, SyncDataCollector):
        env = make_env(EnvConfig(env_id, num_envs, max_episode_steps=17), seed=4)
        batches.append(collect(kind, env, make_policy(env), **options))
    for stock, lean in zip(*batches, strict=True):
        identical(lean, stock)
        assert lean.names == stock.names
        assert lean.device == stock.device
    assert sum(int(batch["next", "done"].sum()) for batch in batches[1]) > 0


@pytest.mark.usefixtures("lean_only")
@pytest.mark.parametrize("stock_policy", [False, True])
def test_lean_path_is_taken_on_our_environments(stock_policy):
    env = make_env(EnvConfig("CartPole-v1", 3), seed=4)
    batch = collect(SyncDataCollector, env, make_policy(env, stock_policy), batches=1)[0]
    assert batch.shape == (3, 25)


def test_stock_policies_collect_the_same_on_both(identical):
    batches = []
    for kind in (Collector, SyncDataCollector):
        env = make_env(EnvConfig("CartPole-v1", 3), seed=4)
        batches.append(collect(kind, env, make_policy(env, stock=True)))
    for stock, lean in zip(*batches, strict=True):
        identical(lean, stock)


def test_other_environments_take_the_stock_path(stock_rollouts):
    env = GymEnv("CartPole-v1", categorical_action_encoding=True)
    collect(SyncDataCollector, env, make_policy(env), batches=2)
    assert len(stock_rollouts) == 2


def test_transforms_take_the_stock_path(stock_rollouts):
    env = make_env(EnvConfig("CartPole-v1", 3), seed=4, transforms=[RewardSum(in_keys=["reward"], out_keys=["summed"])])
    batches = collect(SyncDataCollector, env, make_policy(env), batches=2)
    assert len(stock_rollouts) == 2
    for batch in batches:
        torch.testing.assert_close(batch["next", "summed"], batch["next", "episode_reward"])


@pytest.mark.filterwarnings("ignore:init_random_frames")
@pytest.mark.parametrize(
    "option",
    [
        {"init_random_frames": 30},
        {"reset_at_each_iter": True},
        {"set_truncated": True},
        {"max_frames_per_traj": None, "compact_obs": True},
    ],
)
def test_options_that_the_lean_path_does_not_serve_are_still_obeyed(option, identical):
    batches = []
    for kind in (Collector, SyncDataCollector):
        env = make_env(EnvConfig("CartPole-v1", 3), seed=4)
        batches.append(collect(kind, env, make_policy(env), batches=2, **option))
    for stock, lean in zip(*batches, strict=True):
        identical(lean, stock)


def test_policies_that_read_more_than_the_root_take_the_stock_path(stock_rollouts):
    env = make_env(EnvConfig("CartPole-v1", 3), seed=4)
    policy = TensorDictModule(lambda done: done.squeeze(-1).long(), in_keys=["done"], out_keys=["action"])
    collect(SyncDataCollector, env, policy, batches=1)
    assert len(stock_rollouts) == 1


def test_a_replay_buffer_is_filled(stock_rollouts):
    env = make_env(EnvConfig("CartPole-v1", 3), seed=4)
    buffer = ReplayBuffer(storage=LazyTensorStorage(1000))
    collect(SyncDataCollector, env, make_policy(env), batches=2, replay_buffer=buffer)
    assert len(buffer) > 0
    assert stock_rollouts


def test_batches_can_be_learned_from():
    env = make_env(EnvConfig("CartPole-v1", 3), seed=4)
    policy = make_policy(env)
    # rollout itself, because the iterator would copy the batch once more
    batch = SyncDataCollector(env, policy, frames_per_batch=75, auto_register_policy_transforms=False).rollout()
    assert not batch["observation"].is_inference()
    assert not batch["action_log_prob"].is_inference()
    policy.get_dist(batch).log_prob(batch["action"]).mul(batch["action_log_prob"]).sum().backward()


@pytest.mark.filterwarnings("ignore:total_frames")
def test_frames_are_rounded_up_to_whole_batches():
    env = make_env(EnvConfig("CartPole-v1", 4), seed=4)
    collector = SyncDataCollector(
        env, make_policy(env), frames_per_batch=40, total_frames=100, auto_register_policy_transforms=False
    )
    assert sum(batch.numel() for batch in collector) == 120
