"""The lean collector against the stock one, bit for bit; and the stock path wherever the lean one does not serve."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, ReplayBuffer
from torchrl.envs import DoubleToFloat, GymEnv, ObservationNorm, RewardSum
from torchrl.modules import ProbabilisticActor

from rlpipe.modules import MLP, CategoricalActor, GaussianActor, encoder
from rlpipe.pipelines.collectors.collector import SyncDataCollector
from rlpipe.pipelines.envs import BinObservation, EnvConfig, OneHotObservation, ShapeReward, make_env
from rlpipe.pipelines.envs.reward_shaping import balance


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
    return CategoricalActor(network, env.action_spec, masked="action_mask" in env.observation_spec.keys())


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


@pytest.mark.parametrize(
    "env_id", ["CartPole-v1", "Pendulum-v1", "FrozenLake-v1", "tests/Counter-v0", "rlpipe/Maze-v0"]
)
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


def norm(features, **options):
    loc, scale = torch.linspace(-0.1, 0.1, features), torch.linspace(0.5, 2.0, features)
    return ObservationNorm(loc, scale, in_keys=["observation"], standard_normal=True, **options)


def bins():
    return BinObservation(4, [-2.4, -1.0, -0.2, -1.0], [2.4, 1.0, 0.2, 1.0])


POINTWISE = {
    "bins": ("CartPole-v1", lambda: [bins()]),
    "shaped": ("CartPole-v1", lambda: [ShapeReward(balance)]),
    "normalised": ("CartPole-v1", lambda: [norm(4)]),
    "normalised under another name": ("CartPole-v1", lambda: [norm(4, out_keys=["normed"])]),
    "floats": ("tests/IdentityBox-v0", lambda: [DoubleToFloat(in_keys=["observation"])]),
    "floats, actions too": ("tests/DoubleAction-v0", lambda: [DoubleToFloat()]),
    "one-hot": ("FrozenLake-v1", lambda: [OneHotObservation()]),
    "shaped, normalised, bins": ("CartPole-v1", lambda: [ShapeReward(balance), norm(4), bins()]),
    "one-hot, normalised": ("FrozenLake-v1", lambda: [OneHotObservation(), norm(16)]),
    "normalised by one row": (
        "CartPole-v1",
        lambda: [ObservationNorm(torch.ones(1, 4), torch.full((1, 4), 2.0), in_keys=["observation"])],
    ),
    "bins, one-hot": ("CartPole-v1", lambda: [bins(), OneHotObservation()]),
    "floats, normalised, shaped": (
        "tests/IdentityBox-v0",
        lambda: [DoubleToFloat(in_keys=["observation"]), norm(1), ShapeReward(lambda after: after["observation"] * 2)],
    ),
    "masked, shaped": ("rlpipe/Maze-v0", lambda: [ShapeReward(lambda after: after["reward"] - 0.01)]),
    "masked, one-hot": ("rlpipe/Maze-v0", lambda: [OneHotObservation()]),
}


class DoubleAction(type(gym.make("tests/IdentityBox-v0").unwrapped)):
    action_space = Box(-2.0, 2.0, (1,), np.float64)


gym.register("tests/DoubleAction-v0", DoubleAction, max_episode_steps=10)


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize(("env_id", "transforms"), POINTWISE.values(), ids=POINTWISE)
def test_pointwise_transforms_give_what_the_stock_collector_gives(env_id, transforms, num_envs, identical, monkeypatch):
    batches = []
    for kind in (Collector, SyncDataCollector):
        if kind is SyncDataCollector:
            monkeypatch.setattr(Collector, "rollout", None)
        env = make_env(EnvConfig(env_id, num_envs, max_episode_steps=17), seed=4, transforms=transforms())
        batches.append(collect(kind, env, make_policy(env)))
    for stock, lean in zip(*batches, strict=True):
        identical(lean, stock)
        assert lean.names == stock.names
    assert sum(int(batch["next", "done"].sum()) for batch in batches[1]) > 0


class Flipped(ObservationNorm):
    """A subclass, whose ways are its own: it turns the observation round at every call."""

    sign = 1

    def _call(self, next_tensordict):
        self.sign *= -1
        return next_tensordict.set("observation", self.sign * next_tensordict["observation"])


OTHERS = {
    "not pointwise": lambda: [bins(), RewardSum(in_keys=["reward"], out_keys=["summed"])],
    "for each environment": lambda: [
        ObservationNorm(torch.arange(3.0)[:, None].repeat(1, 4), torch.ones(3, 1), in_keys=["observation"])
    ],
    "of rewards": lambda: [ObservationNorm(0.0, 2.0, in_keys=["reward"], standard_normal=True)],
    "of both": lambda: [ObservationNorm(1.0, 2.0, in_keys=["observation", "reward"])],
    "rewards of each environment": lambda: [ObservationNorm(torch.arange(3.0)[:, None], 2.0, in_keys=["reward"])],
    "a subclass": lambda: [Flipped(0.0, 1.0, in_keys=["observation"])],
    "of actions": lambda: [ObservationNorm(0.5, 2.0, in_keys=[], in_keys_inv=["action"], out_keys_inv=["action"])],
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_transforms_take_the_stock_path(name, identical, stock_rollouts):
    batches = []
    env_id = "Pendulum-v1" if name == "of actions" else "CartPole-v1"
    for kind in (Collector, SyncDataCollector):
        env = make_env(EnvConfig(env_id, 3, max_episode_steps=17), seed=4, transforms=OTHERS[name]())
        batches.append(collect(kind, env, make_policy(env), batches=2))
    assert len(stock_rollouts) == 4
    for stock, lean in zip(*batches, strict=True):
        identical(lean, stock)


@pytest.mark.usefixtures("lean_only")
def test_a_policy_need_not_read_what_is_transformed():
    env = make_env(EnvConfig("CartPole-v1", 3), seed=4, transforms=[bins()])
    policy = TensorDictModule(lambda count: count.squeeze(-1) % 2, in_keys=["step_count"], out_keys=["action"])
    batch = collect(SyncDataCollector, env, policy, batches=1)[0]
    assert torch.equal(batch["action"], batch["step_count"].squeeze(-1) % 2)
    assert batch["observation"].dtype == torch.int64


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


class Negating(TensorDictSequential):
    """Takes the other of two actions."""

    def forward(self, tensordict, *args, **kwargs):
        tensordict = super().forward(tensordict, *args, **kwargs)
        return tensordict.set("action", 1 - tensordict.get("action"))


def negate(module, inputs, tensordict):
    return tensordict.set("action", 1 - tensordict.get("action"))


def with_hook(policy):
    policy.register_forward_hook(negate)
    return policy


def with_own_forward(policy):
    plain = policy.forward
    policy.forward = lambda tensordict: negate(policy, (), plain(tensordict))
    return policy


def selecting(policy):
    return policy.select_out_keys("action")


class NegatingActor(CategoricalActor):
    """The same by an actor of its own kind."""

    def forward(self, tensordict):
        return negate(self, (), super().forward(tensordict))


def of_another_kind(policy):
    policy.__class__ = NegatingActor
    return policy


WRAPPERS = [
    lambda policy: policy,
    TensorDictSequential,
    Negating,
    with_hook,
    with_own_forward,
    of_another_kind,
    lambda policy: with_hook(TensorDictSequential(policy)),
    lambda policy: TensorDictSequential(with_hook(policy)),
    lambda policy: selecting(TensorDictSequential(policy)),
]


@pytest.mark.parametrize("wrap", WRAPPERS)
def test_policies_that_do_more_than_compute_are_called(wrap, identical):
    batches = []
    for kind in (Collector, SyncDataCollector):
        env = make_env(EnvConfig("CartPole-v1", 3), seed=4)
        batches.append(collect(kind, env, wrap(make_policy(env)), batches=2))
    for stock, lean in zip(*batches, strict=True):
        identical(lean, stock)


def test_output_keys_can_be_selected():
    env = make_env(EnvConfig("CartPole-v1", num_envs=3), seed=0)
    out = selecting(make_policy(env))(env.reset())
    assert "action" in out.keys()
    assert "action_log_prob" not in out.keys()


def test_a_policy_without_a_state_of_its_own_needs_no_option():
    # TorchRL would warn that it wants to add a transform, and warnings are errors here
    env = make_env(EnvConfig("CartPole-v1", 2), seed=0)
    collector = SyncDataCollector(env, make_policy(env), frames_per_batch=20, total_frames=20)
    assert [batch.shape for batch in collector] == [(2, 10)]
