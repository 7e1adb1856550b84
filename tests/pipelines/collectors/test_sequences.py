"""An encoder, a recurrent network or a stock module before an actor: collected, evaluated, exploring or not."""

import pytest
import torch
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torchrl.collectors import Collector
from torchrl.envs import InitTracker
from torchrl.envs.utils import ExplorationType
from torchrl.modules import GRUModule, set_recurrent_mode

from rlpipe.modules import (
    MLP,
    CategoricalActor,
    DeterministicActor,
    EpsilonGreedy,
    GaussianActor,
    GaussianNoise,
    QActor,
    QuantileActor,
    TensorModule,
)
from rlpipe.pipelines.collectors.collector import SyncDataCollector
from rlpipe.pipelines.collectors.evaluation import evaluate
from rlpipe.pipelines.envs import EnvConfig, make_env


class Features(TensorModule):
    """What a user writes so that the whole policy is lean."""

    def __init__(self, network):
        super().__init__()
        self.name_keys(network, [], ["features"])
        self.network = network

    def compute(self, *entries):
        return (self.through(self.network, *entries),)


FEATURES = {"in_keys": ["features"]}


def make_head(name, spec, draws):
    """The parts of a policy behind its features."""
    if name == "categorical":
        return [CategoricalActor(nn.Linear(8, 2), spec, draws, **FEATURES)]
    if name == "masked":
        return [CategoricalActor(nn.Linear(8, 4), spec, draws, masked=True, **FEATURES)]
    if name == "gaussian":
        return [GaussianActor(nn.Linear(8, 1), spec, draws, **FEATURES)]
    if name == "deterministic":
        actor = DeterministicActor(nn.Linear(8, 1), spec, **FEATURES, out_keys=["greedy"])
        return [actor, GaussianNoise(spec, 0.5, draws, in_keys=["greedy"])]
    network, kind = {"q": (nn.Linear(8, 2), QActor), "quantiles": (nn.Linear(8, 400), QuantileActor)}[name]
    return [kind(network, spec, **FEATURES), EpsilonGreedy(spec, 0.5, draws)]


HEADS = {
    "categorical": "CartPole-v1",
    "q": "CartPole-v1",
    "quantiles": "CartPole-v1",
    "gaussian": "Pendulum-v1",
    "deterministic": "Pendulum-v1",
    "masked": "rlpipe/Maze-v0",
}


class Number(nn.Module):
    """A Discrete observation as one number."""

    def forward(self, observation):
        return observation.unsqueeze(-1).float()


def make_policy(name, env, stock):
    torch.manual_seed(0)
    shape = env.observation_spec["observation"].shape[1:]
    first = nn.Sequential(nn.Identity() if shape else Number(), MLP(shape.numel(), None, (8,)))
    before = TensorDictModule(first, ["observation"], ["features"]) if stock else Features(first)
    return TensorDictSequential(before, *make_head(name, env.action_spec, torch.Generator().manual_seed(0)))


def collected(kind, name, stock, exploration):
    config = EnvConfig(HEADS[name], 3, max_episode_steps=9)
    env = make_env(config, seed=4)
    policy = make_policy(name, env, stock)
    options = {"frames_per_batch": 3 * 12, "total_frames": 3 * 24, "auto_register_policy_transforms": False}
    collector = kind(env, policy, exploration_type=exploration, **options)
    return collector, list(collector)


@pytest.mark.parametrize("exploration", [ExplorationType.RANDOM, ExplorationType.DETERMINISTIC])
@pytest.mark.parametrize("name", HEADS)
def test_batches_are_the_same_on_every_path(name, exploration, identical):
    collector, lean = collected(SyncDataCollector, name, stock=False, exploration=exploration)
    assert collector.is_lean()
    _, with_stock_part = collected(SyncDataCollector, name, stock=True, exploration=exploration)
    for kind, stock in ((Collector, True), (Collector, False)):
        _, batches = collected(kind, name, stock, exploration)
        for one, other, third in zip(batches, lean, with_stock_part, strict=True):
            identical(one, other)
            identical(one, third)
    assert lean[0]["features"].shape == (3, 12, 8)


@pytest.mark.parametrize("name", HEADS)
def test_evaluations_are_the_same_and_greedy(name):
    config = EnvConfig(HEADS[name], 3, max_episode_steps=60)
    env = make_env(config, seed=0)
    returns = []
    for stock in (True, False):
        policy = make_policy(name, env, stock)
        returns.append([evaluate(policy, config, episodes=3, seed=1, stochastic=each) for each in (False, False, True)])
    env.close()
    assert [each.returns for each in returns[0]] == [each.returns for each in returns[1]]
    greedy, again, explored = returns[0]
    assert greedy.returns == again.returns
    assert greedy.returns != explored.returns or name == "masked"


def test_get_dist_of_an_actor_reads_the_entries_that_it_was_told():
    env = make_env(EnvConfig("CartPole-v1", 3), seed=0)
    policy = make_policy("categorical", env, stock=True)
    out = policy(env.reset())
    distribution = policy[1].get_dist(out)
    assert torch.equal(distribution.log_prob(out["action"]), out["action_log_prob"])
    env.close()


@pytest.mark.parametrize("kind", [SyncDataCollector, Collector])
def test_a_recurrent_network_of_torchrl_stands_before_an_actor(kind):
    env = make_env(EnvConfig("CartPole-v1", 3), seed=0)
    torch.manual_seed(0)
    gru = GRUModule(
        input_size=4,
        hidden_size=8,
        in_keys=["observation", "state", "is_init"],
        out_keys=["features", ("next", "state")],
    )
    actor = CategoricalActor(nn.Linear(8, 2), env.action_spec, torch.Generator().manual_seed(0), in_keys=["features"])
    policy = TensorDictSequential(gru, actor)
    env.append_transform(InitTracker())
    env.append_transform(gru.make_tensordict_primer())
    collector = kind(env, policy, frames_per_batch=3 * 30, total_frames=3 * 60)
    for batch in collector:
        assert batch["features"].shape == (3, 30, 8)
        # as over whole sequences, which begin anew with each episode
        with set_recurrent_mode(True), torch.no_grad():
            again = gru(batch.select("observation", "state", "is_init"))
        torch.testing.assert_close(again["features"], batch["features"], rtol=0, atol=1e-5)
        torch.testing.assert_close(actor.get_dist(batch).log_prob(batch["action"]), batch["action_log_prob"])
    assert batch["is_init"].any()
    config = EnvConfig("CartPole-v1")
    first, second = (evaluate(policy, config, episodes=4, seed=1) for _ in range(2))
    assert first == second
