"""Dueling Double DQN with prioritised replay and 3-step returns on CartPole-v1.

Wang et al. 2016 (dueling), van Hasselt et al. 2016 (double), Schaul et al. 2016 (priorities). The learning rate falls
and the weights' exponent rises as functions of the frames.
`rlpipe train examples/dueling_double_dqn.py --seeds 0-4`: 344 to 500, at random 22.
"""

from dataclasses import dataclass

import torch
from tensordict.nn import TensorDictSequential
from torch import nn
from torchrl.data import LazyTensorStorage, ReplayBuffer

from rlpipe import PrioritizedSampler, TrainConfig, gradient_step, make_pipeline, off_policy, schedule, set_up
from rlpipe.losses import DQNLoss, NStep, TargetUpdate
from rlpipe.modules import MLP, DuelingHead, EpsilonGreedy, Linear, QActor


@dataclass(frozen=True)
class Config(TrainConfig):
    num_envs: int = 32
    rollout_steps: int = 8
    total_frames: int = 40_960
    lr: float = 2e-3
    beta: float = 0.4
    """Exponent of the importance weights at the beginning; it rises to 1."""


def build(config):
    device, seeds, env = set_up(config)
    inputs, actions = env.observation_spec["observation"].shape[-1], env.action_spec.space.n
    network = nn.Sequential(MLP(inputs, None, (120, 84), layer_norm=True), DuelingHead(84, actions)).to(device)
    actor = QActor(network, env.action_spec)
    explorer = EpsilonGreedy(env.action_spec, Linear(1.0, 0.05, frames=5_000))
    policy = TensorDictSequential(actor, explorer)

    loss = DQNLoss(actor, kind="smooth_l1", double=True, n_step=True, prioritized=True)
    optimizer = torch.optim.Adam(actor.parameters(), lr=config.lr, fused=True)
    target = TargetUpdate(loss.q_network, loss.target_network, tau=0.05)
    update = gradient_step(loss, optimizer, max_norm=10.0, after=[target], execution="recorded")
    sampler = PrioritizedSampler(20_000, alpha=0.6, beta=config.beta)
    buffer = ReplayBuffer(storage=LazyTensorStorage(20_000, device=device), sampler=sampler, batch_size=256)
    look_ahead, replay = NStep(gamma=0.99, n=3), off_policy(buffer, update, updates=20, warmup=1_000)

    def learn(batch):
        return replay(look_ahead(batch))

    falling = schedule(optimizer, "lr", Linear(config.lr, 0.0, frames=config.total_frames))
    rising = schedule(sampler, "beta", Linear(config.beta, 1.0, frames=config.total_frames))
    return make_pipeline(config, env, policy, learn, seeds, listeners=[falling, rising])
