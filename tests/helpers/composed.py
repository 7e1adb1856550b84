"""Algorithms composed from parts, and what a run of one must have in common with one that was killed."""

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictSequential
from torch import nn
from torchrl.data import LazyTensorStorage, ReplayBuffer
from torchrl.data.replay_buffers import SamplerWithoutReplacement

from rlpipe.losses import GAE, ClipPPOLoss, TargetUpdate, frozen_copy
from rlpipe.modules import MLP, CategoricalActor, Critic, EpsilonGreedy, QActor
from rlpipe.modules.exploration import Linear
from rlpipe.pipelines.collectors.collector import SyncDataCollector
from rlpipe.pipelines.envs import EnvConfig, make_env
from rlpipe.pipelines.pipeline import Pipeline
from rlpipe.pipelines.replay.prioritized import PrioritizedSampler
from rlpipe.pipelines.runs.run import Run
from rlpipe.pipelines.training.loop import train
from rlpipe.pipelines.updates.combining import every, in_turn
from rlpipe.pipelines.updates.learning import off_policy, on_policy
from rlpipe.pipelines.updates.update import gradient_step


def generator(seed):
    """A generator that no `Seeds` holds."""
    return torch.Generator().manual_seed(seed)


class CriticLoss(nn.Module):
    """The distance of an action's value from the target network's largest next value; a priority for each sample."""

    in_keys = ["observation", "action", ("next", "observation"), ("next", "reward"), ("next", "terminated")]

    def __init__(self, network):
        super().__init__()
        self.network, self.target_network = network, frozen_copy(network)

    def forward(self, batch):
        after = batch["next"]
        bootstrap = self.target_network(after["observation"]).amax(-1, keepdim=True)
        target = after["reward"] + 0.9 * ~after["terminated"] * bootstrap
        value = self.network(batch["observation"]).gather(-1, batch["action"].unsqueeze(-1))
        error = (value - target.detach()).squeeze(-1)
        return TensorDict(loss_critic=error.square().mean(), priority=error.detach().abs())


class ActorLoss(nn.Module):
    """Moves the biases of a network; a loss that only some updates have."""

    in_keys = ["observation", "step_count"]

    def __init__(self, network):
        super().__init__()
        self.network = network
        self.coefficient = nn.Parameter(torch.ones(()))

    def forward(self, batch):
        return TensorDict(loss_actor=(self.coefficient * self.network(batch["observation"])).square().mean())


def delayed(plain=False):
    """A pipeline of two losses, one of them every third time, with a target network and prioritised replay.

    With `plain`, what learns is a function that uses the part that would learn.
    """
    torch.manual_seed(0)
    env = make_env(EnvConfig("CartPole-v1", 4), seed=0)
    network = MLP(4, 2, (8,))
    explorer = EpsilonGreedy(env.action_spec, Linear(1.0, 0.1, frames=200), generator(1))
    policy = TensorDictSequential(QActor(network, env.action_spec), explorer)
    critic, actor = CriticLoss(network), ActorLoss(network)
    target = TargetUpdate(critic.network, critic.target_network, every=5)
    optimizer = torch.optim.Adam(critic.network.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.99)
    update = in_turn(
        gradient_step(critic, optimizer, after=[target, schedule.step]),
        every(3, gradient_step(actor, torch.optim.Adam([actor.coefficient], lr=1e-2))),
    )
    buffer = ReplayBuffer(
        storage=LazyTensorStorage(200), sampler=PrioritizedSampler(200), batch_size=16, generator=generator(2)
    )
    replay = off_policy(buffer, update, updates=4, warmup=64)
    collector = SyncDataCollector(env, policy, frames_per_batch=32, total_frames=320)

    def learn(batch):
        explorer.advance(batch)
        return replay(batch)

    return Pipeline(collector, learn if plain else replay, policy)


def clipped(skip_if=None):
    """PPO, of which the state names nothing."""
    torch.manual_seed(0)
    env = make_env(EnvConfig("CartPole-v1", 4), seed=0)
    actor = CategoricalActor(MLP(4, 2, (8,)), env.action_spec, generator=generator(1))
    critic = Critic(MLP(4, 1, (8,)))
    loss = ClipPPOLoss(actor, critic)
    update = gradient_step(loss, torch.optim.Adam(loss.parameters(), lr=3e-2), skip_if=skip_if)
    sampler = SamplerWithoutReplacement()
    buffer = ReplayBuffer(storage=LazyTensorStorage(64), sampler=sampler, batch_size=16, generator=generator(2))
    learn = on_policy(GAE(critic), buffer, update, epochs=3)
    return Pipeline(SyncDataCollector(env, actor, frames_per_batch=64, total_frames=640), learn, actor)


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it on the way."""


def go(folder, make, *, killed_at=None, every_frames=128):
    """Train in a run folder, or go on in one; killed when it learns from the `killed_at`th batch."""
    pipeline, count = make(), 0
    learn = pipeline.learn

    def counted(batch):
        nonlocal count
        count += 1
        if count == killed_at:
            raise Killed
        return learn(batch)

    pipeline.learn = counted
    settings = {"env_id": "CartPole-v1", "seed": 0, "total_frames": pipeline.collector.total_frames}
    try:
        with Run(folder, "composed", settings=settings, resume=folder.exists()) as run:
            train(pipeline, run, checkpoint_every=every_frames)
    finally:
        pipeline.close()
    return pipeline


def resumed(folder, make, killed_at):
    """The same, killed once, in another state of the process's generators, and resumed."""
    with pytest.raises(Killed):
        go(folder, make, killed_at=killed_at)
    torch.manual_seed(1)
    return go(folder, make)
