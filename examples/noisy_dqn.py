"""DQN that explores with learned noise: NoisyNet, Fortunato et al. 2018, on CartPole-v1.

Each batch draws new noise for the layers' weights. Collecting and the loss use it, evaluation does not. The layers
write each draw into buffers, so recorded updates see it.
`rlpipe train examples/noisy_dqn.py --seeds 0-4`: 273 to 359, at random 22.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torchrl.data import LazyTensorStorage, ReplayBuffer
from torchrl.envs.utils import ExplorationType
from torchrl.modules import NoisyLinear, reset_noise

from rlpipe import EnvConfig, Pipeline, SyncDataCollector, gradient_step, make_env, off_policy, schedule
from rlpipe.losses import DQNLoss, TargetUpdate
from rlpipe.modules import MLP, Linear, QActor


@dataclass(frozen=True)
class Config:
    env_id: str = "CartPole-v1"
    seed: int = 0
    total_frames: int = 24_576
    lr: float = 1e-3


def build(config):
    env = make_env(EnvConfig(config.env_id, num_envs=8), seed=config.seed)
    network = nn.Sequential(
        MLP(4, None, (128,), layer_norm=True), NoisyLinear(128, 128), nn.ReLU(), NoisyLinear(128, 2)
    )
    actor = QActor(network, env.action_spec)
    loss = DQNLoss(actor, gamma=0.99, kind="smooth_l1", double=True)
    # by default TorchRL's losses use the mean instead of the noise
    loss.deterministic_sampling_mode = ExplorationType.RANDOM
    optimizer = torch.optim.Adam(actor.parameters(), lr=config.lr, fused=True)
    follow = TargetUpdate(loss.q_network, loss.target_network, tau=0.02)
    update = gradient_step(loss, optimizer, max_norm=10.0, after=[follow], execution="recorded")
    buffer = ReplayBuffer(storage=LazyTensorStorage(50_000), batch_size=128)
    replay = off_policy(buffer, update, updates=1, warmup=1_000)

    def learn(batch):
        loss.apply(reset_noise)
        return replay(batch)

    collector = SyncDataCollector(env, actor, frames_per_batch=8, total_frames=config.total_frames)
    falling = schedule(optimizer, "lr", Linear(config.lr, 0.0, frames=config.total_frames))
    return Pipeline(collector, learn, actor, listeners=[falling])
