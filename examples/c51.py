"""Categorical DQN (C51) on CartPole-v1: Bellemare et al. 2017, Algorithm 1, as a custom loss.

`rlpipe train examples/c51.py --seeds 0-4`: FIGURES, at random 22.
"""

from dataclasses import dataclass

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictSequential
from torchrl.data import LazyTensorStorage, ReplayBuffer

from rlpipe import TargetUpdate, TrainConfig, gradient_step, make_pipeline, off_policy, schedule, set_up
from rlpipe.losses import NStep, column, frozen_copy, functional
from rlpipe.modules import MLP, EpsilonGreedy, Linear, QActor


@dataclass(frozen=True)
class Config(TrainConfig):
    num_envs: int = 16
    rollout_steps: int = 8
    total_frames: int = 30_720


class Distributions(MLP):
    def log_prob(self, observation):
        return super().forward(observation).unflatten(-1, (-1, 51)).log_softmax(-1)

    def forward(self, observation):
        return self.log_prob(observation).exp() @ torch.linspace(0, 100, 51)


class C51Loss(torch.nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network, self.target_network = network, frozen_copy(network)
        self.in_keys = ["observation", "action", *(("next", key) for key in ("observation", "reward", "discount"))]

    def forward(self, batch):
        row, after, atoms = torch.arange(len(batch)), batch["next"], torch.linspace(0, 100, 51)
        with torch.no_grad():
            p = self.target_network.log_prob(after["observation"]).exp()
            p, reward, discount = p[row, (p @ atoms).argmax(-1)], column(after, "reward"), column(after, "discount")
            target = functional.categorical_projection(p, reward, discount, atoms)
        log_prob = self.network.log_prob(batch["observation"])[row, batch["action"]]
        return TensorDict(loss_cross_entropy=-(target * log_prob).sum(-1).mean())


def build(config):
    _, seeds, env = set_up(config)
    network = Distributions(4, 2 * 51, (128, 128), layer_norm=True)
    actor, explorer = QActor(network, env.action_spec), EpsilonGreedy(env.action_spec, Linear(1.0, 0.05, frames=5_000))
    loss, optimizer = C51Loss(network), torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
    follow = TargetUpdate(network, loss.target_network, tau=0.05)
    update = gradient_step(loss, optimizer, max_norm=10.0, after=[follow], execution="recorded")
    replay = off_policy(
        ReplayBuffer(storage=LazyTensorStorage(50_000), batch_size=128), update, updates=8, warmup=1_000
    )
    look_ahead, lr = NStep(gamma=0.99, n=3), schedule(optimizer, "lr", Linear(1e-3, 0.0, frames=config.total_frames))

    def learn(batch):
        explorer.advance(batch)
        return replay(look_ahead(batch))

    return make_pipeline(config, env, TensorDictSequential(actor, explorer), learn, seeds, listeners=[lr])
