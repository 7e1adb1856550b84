"""Soft actor-critic for Box actions: three losses in one gradient step.

Haarnoja et al. 2018, "Soft Actor-Critic Algorithms and Applications", Algorithm 1; one optimizer for the sum of losses.
`rlpipe train examples/sac.py --seeds 0-4`: Pendulum-v1 -148 to -158, at random -1200.
"""

from dataclasses import dataclass

import torch
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, ReplayBuffer

from rlpipe import EnvConfig, Pipeline, SyncDataCollector, gradient_step, make_env, off_policy
from rlpipe.losses import TargetUpdate, column, frozen, frozen_copy
from rlpipe.modules import MLP, ActionValueCritic, GaussianActor


@dataclass(frozen=True)
class Config:
    env_id: str = "Pendulum-v1"
    seed: int = 0
    total_frames: int = 9_600
    lr: float = 2e-3


class SACLoss(torch.nn.Module):
    def __init__(self, actor, critics, gamma=0.99):
        super().__init__()
        self.actor, self.critics, self.targets, self.gamma = actor, critics, frozen_copy(critics), gamma
        self.log_alpha = torch.nn.Parameter(torch.zeros(()))
        self.in_keys = ["observation", "action", *(("next", key) for key in ("observation", "reward", "terminated"))]

    def forward(self, batch):
        observation, after, alpha = batch["observation"], batch["next"], self.log_alpha.exp().detach()
        with torch.no_grad():
            action, log_prob = self.actor.get_dist(after).rsample_and_log_prob()
            soft_value = self.values(self.targets, after["observation"], action).amin(-1) - alpha * log_prob
            target = column(after, "reward") + self.gamma * ~column(after, "terminated") * soft_value
        error = self.values(self.critics, observation, batch["action"]) - target.unsqueeze(-1)
        action, log_prob = self.actor.get_dist(batch).rsample_and_log_prob()
        with frozen(self.critics):
            loss_actor = (alpha * log_prob - self.values(self.critics, observation, action).amin(-1)).mean()
        loss_alpha = -self.log_alpha * (log_prob.detach() - action.shape[-1]).mean()
        return TensorDict({"loss_q": error.square().mean(0).sum(), "loss_actor": loss_actor, "loss_alpha": loss_alpha})

    def values(self, critics, observation, action):
        return torch.cat([critic.compute(observation, action)[0] for critic in critics], -1)


def build(config):
    env = make_env(EnvConfig(config.env_id, num_envs=8), seed=config.seed)
    actor = GaussianActor(MLP(3, 2), env.action_spec, state_dependent_std=True)
    loss = SACLoss(actor, torch.nn.ModuleList(ActionValueCritic(MLP(4, 1), env.action_spec) for _ in range(2)))
    optimizer = torch.optim.Adam(loss.parameters(), lr=config.lr, fused=True)
    follow = TargetUpdate(loss.critics, loss.targets, tau=0.01)
    update = gradient_step(loss, optimizer, after=[follow], execution="recorded")
    buffer = ReplayBuffer(storage=LazyTensorStorage(config.total_frames), batch_size=128)
    learn = off_policy(buffer, update, updates=16, warmup=1_000)
    collector = SyncDataCollector(env, actor, frames_per_batch=32, total_frames=config.total_frames)
    return Pipeline(collector, learn, actor)
