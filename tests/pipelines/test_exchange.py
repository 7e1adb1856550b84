"""Both directions of exchange with TorchRL: stock losses on our modules, our losses in a stock trainer."""

from types import SimpleNamespace

import pytest
import torch
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, ReplayBuffer
from torchrl.data.replay_buffers import SamplerWithoutReplacement
from torchrl.modules import Actor, NormalParamExtractor, ProbabilisticActor, TanhNormal
from torchrl.objectives import ClipPPOLoss as StockClipPPOLoss
from torchrl.objectives import DQNLoss as StockDQNLoss
from torchrl.objectives import HardUpdate, SACLoss, SoftUpdate, TD3Loss, ValueEstimators
from torchrl.objectives.value import GAE as StockGAE
from torchrl.trainers import TargetNetUpdaterHook, Trainer

from rlpipe.losses import GAE, A2CLoss, ClipPPOLoss, DQNLoss, TargetUpdate
from rlpipe.modules import MLP, ActionValueCritic, CategoricalActor, Critic, DeterministicActor, GaussianActor, QActor
from rlpipe.pipelines.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from rlpipe.pipelines.collectors.collector import SyncDataCollector
from rlpipe.pipelines.envs import EnvConfig, make_env
from rlpipe.pipelines.pipeline import Pipeline
from rlpipe.pipelines.training.loop import train
from rlpipe.pipelines.updates.learning import off_policy, on_policy
from rlpipe.pipelines.updates.update import gradient_step


def make_modules(env_id):
    env = make_env(EnvConfig(env_id, 4), seed=0)
    torch.manual_seed(0)
    features = env.observation_spec["observation"].shape[-1]
    if env_id == "Pendulum-v1":
        return env, GaussianActor(MLP(features, 1), env.action_spec), Critic(MLP(features, 1))
    return env, CategoricalActor(MLP(features, 2), env.action_spec), Critic(MLP(features, 1))


def collect(env, policy, kind=SyncDataCollector, batches=2):
    return kind(env, policy, frames_per_batch=128, total_frames=128 * batches, auto_register_policy_transforms=False)


def weights(module):
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()]).clone()


@pytest.mark.filterwarnings("ignore:.*entropy.*")
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_stock_ppo_loss_on_our_modules(env_id):
    env, actor, critic = make_modules(env_id)
    loss = StockClipPPOLoss(actor, critic, loss_critic_type="l2")
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-3)
    buffer = ReplayBuffer(storage=LazyTensorStorage(128), sampler=SamplerWithoutReplacement(), batch_size=32)
    learn = on_policy(GAE(critic), buffer, gradient_step(loss, optimizer, max_norm=1.0), epochs=1)
    before = weights(actor), weights(critic)
    for batch in collect(env, actor):
        scalars = learn(batch)
    assert {"loss_objective", "loss_critic", "loss_entropy", "grad_norm"} <= set(scalars.keys())
    assert not torch.equal(weights(actor), before[0])
    assert not torch.equal(weights(critic), before[1])


@pytest.mark.parametrize("double", [False, True])
def test_stock_dqn_loss_on_our_modules(double):
    env = make_env(EnvConfig("CartPole-v1", 4), seed=0)
    actor = QActor(MLP(4, 2), env.action_spec)
    loss = StockDQNLoss(actor, delay_value=True, double_dqn=double)
    loss.make_value_estimator(gamma=0.9)
    target = SoftUpdate(loss, tau=0.1)
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-3)
    buffer = ReplayBuffer(storage=LazyTensorStorage(1000), batch_size=32)
    update = gradient_step(loss, optimizer, after=[target.step])
    learn = off_policy(buffer, update, updates=2, warmup=1)
    before = weights(actor)
    for batch in collect(env, actor):
        scalars = learn(batch)
    assert scalars["loss"].isfinite()
    assert not torch.equal(weights(actor), before)


def make_stock_actor(kind):
    if kind is TD3Loss:
        return Actor(MLP(3, 1, (8,)), in_keys=["observation"])
    network = nn.Sequential(MLP(3, 2, (8,)), NormalParamExtractor())
    return ProbabilisticActor(
        TensorDictModule(network, in_keys=["observation"], out_keys=["loc", "scale"]),
        in_keys=["loc", "scale"],
        distribution_class=TanhNormal,
        distribution_kwargs={"low": -2.0, "high": 2.0},
        return_log_prob=True,
    )


def make_our_actor(kind, spec):
    if kind is TD3Loss:
        return DeterministicActor(MLP(3, 1, (8,)), spec)
    return GaussianActor(MLP(3, 2, (8,)), spec, state_dependent_std=True)


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize("kind", [SACLoss, TD3Loss])
def test_stock_losses_for_box_actions_learn_from_replay_and_are_logged(kind, ours):
    env = make_env(EnvConfig("Pendulum-v1", 4), seed=0)
    torch.manual_seed(0)
    actor = make_our_actor(kind, env.action_spec) if ours else make_stock_actor(kind)
    critic = ActionValueCritic(MLP(4, 1, (8,)), env.action_spec)
    loss = kind(actor, critic, **({"bounds": (-2.0, 2.0)} if kind is TD3Loss else {"action_spec": env.action_spec}))
    loss.make_value_estimator(gamma=0.9)
    update = gradient_step(loss, torch.optim.Adam(loss.parameters(), lr=1e-2), after=[SoftUpdate(loss, tau=0.1).step])
    buffer = ReplayBuffer(storage=LazyTensorStorage(1000), batch_size=32)
    learn = off_policy(buffer, update, updates=2, warmup=1)
    before = weights(actor)
    assert train(Pipeline(collect(env, actor), learn, actor)).updates == 4
    assert not torch.equal(weights(actor), before)
    assert set(buffer[:].keys(True, True)) == set(loss.in_keys)


def test_stock_advantages_serve_our_loss():
    env, actor, critic = make_modules("CartPole-v1")
    advantage = StockGAE(gamma=0.99, lmbda=0.95, value_network=critic, vectorized=True)
    batch = next(iter(collect(env, actor)))
    assert ClipPPOLoss(actor, critic)(advantage(batch))["loss_policy"].isfinite()


@pytest.mark.parametrize("kind", ["ppo", "dqn"])
def test_our_losses_inside_a_stock_trainer(kind):
    env, actor, critic = make_modules("CartPole-v1")
    if kind == "dqn":
        actor = QActor(MLP(4, 2), env.action_spec)
        loss = DQNLoss(actor)
    else:
        loss = ClipPPOLoss(actor, critic)
    before = weights(actor)
    trainer = Trainer(
        collector=collect(env, actor, Collector),
        total_frames=256,
        frame_skip=1,
        optim_steps_per_batch=2,
        loss_module=loss,
        optimizer=torch.optim.Adam(loss.parameters(), lr=1e-2),
        progress_bar=False,
    )
    if kind == "ppo":
        trainer.register_op("batch_process", GAE(critic))
    trainer.train()
    assert not torch.equal(weights(actor), before)
    assert all(parameter.isfinite().all() for parameter in loss.parameters())


def make_q_learning(stock_update):
    """Q-learning by our parts, whose target TorchRL's updater moves."""
    env = make_env(EnvConfig("CartPole-v1", 4), seed=0)
    torch.manual_seed(0)
    actor = QActor(MLP(4, 2), env.action_spec)
    loss = DQNLoss(actor)
    target = stock_update(loss)
    optimizer = torch.optim.Adam(actor.parameters(), lr=1e-3)
    update = gradient_step(loss, optimizer, after=[target.step], execution="recorded")
    generator = torch.Generator().manual_seed(0)
    buffer = ReplayBuffer(storage=LazyTensorStorage(1000), batch_size=32, generator=generator)
    learn = off_policy(buffer, update, updates=5, warmup=1)
    return Pipeline(collect(env, actor, batches=6), learn, actor), loss, target


def test_torchrls_updates_move_the_target_in_our_loop_as_ours_do():
    ours = []

    def our_update(loss):
        follow = TargetUpdate(loss.q_network, loss.target_network, tau=0.1)
        ours.append(follow)
        return SimpleNamespace(step=follow)

    theirs = [make_q_learning(lambda loss: SoftUpdate(loss, tau=0.1)), make_q_learning(our_update)]
    for pipeline, _, _ in theirs:
        train(pipeline, progress=False)
    stock, own = (weights(loss) for _, loss, _ in theirs)
    assert ours[0].calls == 30
    torch.testing.assert_close(stock, own)
    assert not torch.equal(stock, weights(make_q_learning(our_update)[1]))


def test_torchrls_update_is_in_our_checkpoints(tmp_path):
    pipeline, loss, target = make_q_learning(lambda loss: HardUpdate(loss, value_network_update_interval=12))
    train(pipeline, progress=False)
    assert target.counter == 30 % 13
    assert any(part is target for part in pipeline.state.values())
    save_checkpoint(tmp_path / "one", pipeline.state, {})
    resumed, other, again = make_q_learning(lambda loss: HardUpdate(loss, value_network_update_interval=12))
    load_checkpoint(tmp_path / "one", resumed.state)
    assert again.counter == target.counter
    assert torch.equal(weights(other), weights(loss))


def test_torchrls_update_moves_our_target_in_its_trainer():
    env = make_env(EnvConfig("CartPole-v1", 4), seed=0)
    actor = QActor(MLP(4, 2), env.action_spec)
    loss = DQNLoss(actor)
    loss.make_value_estimator(gamma=0.9)
    before = weights(loss.target_network)
    trainer = Trainer(
        collector=collect(env, actor, Collector),
        total_frames=256,
        frame_skip=1,
        optim_steps_per_batch=2,
        loss_module=loss,
        optimizer=torch.optim.Adam(actor.parameters(), lr=1e-2),
        progress_bar=False,
    )
    trainer.register_op("post_optim", TargetNetUpdaterHook(SoftUpdate(loss, tau=0.5)))
    trainer.train()
    assert loss.gamma == 0.9
    assert not torch.equal(weights(loss.target_network), before)


@pytest.mark.parametrize("make", [ClipPPOLoss, A2CLoss])
def test_an_encoder_before_our_actor_and_critic_learns(make):
    env, _, _ = make_modules("CartPole-v1")
    encoder = TensorDictModule(MLP(4, None, (8,)), in_keys=["observation"], out_keys=["features"])
    actor, critic = CategoricalActor(MLP(8, 2, ()), env.action_spec), Critic(MLP(8, 1, ()))
    for module in (actor, critic):
        module.in_keys = ["features"]
    policy, value = TensorDictSequential(encoder, actor), TensorDictSequential(encoder, critic)
    loss = make(policy, value)
    loss.make_value_estimator(ValueEstimators.TDLambda, gamma=0.99, lmbda=0.9)
    update = gradient_step(loss, torch.optim.Adam(loss.parameters(), lr=1e-3), execution="recorded")
    buffer = ReplayBuffer(storage=LazyTensorStorage(128), sampler=SamplerWithoutReplacement(), batch_size=16)
    learn = on_policy(loss.value_estimator, buffer, update, epochs=2)
    assert "features" not in learn.in_keys
    before = weights(encoder), weights(actor), weights(critic)
    train(Pipeline(collect(env, policy, batches=3), learn, policy), progress=False)
    assert not any(map(torch.equal, before, (weights(encoder), weights(actor), weights(critic))))


def test_an_estimator_of_our_loss_inside_a_stock_trainer():
    env, actor, critic = make_modules("CartPole-v1")
    loss = ClipPPOLoss(actor, critic)
    loss.make_value_estimator(ValueEstimators.GAE, gamma=0.99, lmbda=0.95)
    before = weights(critic)
    # without minibatches, the loss itself computes the advantages
    trainer = Trainer(
        collector=collect(env, actor, Collector),
        total_frames=256,
        frame_skip=1,
        optim_steps_per_batch=2,
        loss_module=loss,
        optimizer=torch.optim.Adam(loss.parameters(), lr=1e-2),
        progress_bar=False,
    )
    trainer.train()
    assert not torch.equal(weights(critic), before)
