"""Random network distillation: PPO that is paid for reaching states that are new to it, where reward is rare.

Burda et al. 2019. The bonus is the error of a network that learns what a random one gives (section 2.2), in units of
its running mean; a second critic values it across the ends of episodes (sections 2.3 and 2.4). FrozenLake 8 x 8:
`rlpipe train examples/rnd.py --seeds 0-4`: FIGURES; with `--curiosity 0`, which is plain PPO, 0 on all.
"""

from dataclasses import dataclass

import gymnasium as gym
import torch
from torchrl.data import LazyTensorStorage, ReplayBuffer, SamplerWithoutReplacement

from rlpipe import GAE, ClipPPOLoss, EnvConfig, Pipeline, SyncDataCollector, gradient_step, make_env, on_policy
from rlpipe.losses import frozen_copy
from rlpipe.modules import MLP, CategoricalActor, Critic, Network, OneHot


def lake():
    return gym.make("FrozenLake-v1", map_name="8x8", is_slippery=False)


@dataclass(frozen=True)
class Config:
    env_id: str = lake
    seed: int = 0
    total_frames: int = 61_440
    curiosity: float = 0.1


class RNDLoss(ClipPPOLoss):
    def __init__(self, actor, critic):
        super().__init__(actor, critic)
        self.predictor, self.random, self.bonus_critic = network(32), frozen_copy(network(32)), Critic(network(1))
        self.register_buffer("mean_error", torch.zeros(()))
        self.in_keys = [*self.in_keys, ("next", "observation"), "bonus_target"]

    def error(self, after):
        return (self.predictor(after) - self.random(after)).square().mean(-1, keepdim=True)

    def forward(self, batch):
        bonus_error = self.bonus_critic.compute(batch["observation"])[0] - batch["bonus_target"]
        losses = {"loss_prediction": self.error(batch["next", "observation"]).mean()}
        return super().forward(batch).update({**losses, "loss_bonus_value": 0.5 * bonus_error.square().mean()})


def network(outputs):
    return Network(OneHot(64), *MLP(64, outputs, activation="tanh"))


def build(config):
    env = make_env(EnvConfig(config.env_id, num_envs=16), seed=config.seed)
    actor, critic = CategoricalActor(network(4), env.action_spec), Critic(network(1))
    loss, reward_gae = RNDLoss(actor, critic), GAE(critic)
    bonus_gae = GAE(loss.bonus_critic)
    bonus_gae.set_keys(reward="bonus", done="never", terminated="never", value="bonus_value", advantage="bonus_advantage", value_target="bonus_target")

    def advantages(batch):
        after = batch["next"]
        error = loss.error(after["observation"]).detach()
        loss.mean_error.lerp_(error.mean(), 0.05)
        after["bonus"], after["never"] = error / loss.mean_error, torch.zeros_like(after["done"])
        batch = bonus_gae(reward_gae(batch))
        return batch.set("advantage", batch["advantage"] + config.curiosity * batch["bonus_advantage"])

    update = gradient_step(loss, torch.optim.Adam(loss.parameters(), lr=1e-3), max_norm=0.5, execution="recorded")
    buffer = ReplayBuffer(storage=LazyTensorStorage(1024), sampler=SamplerWithoutReplacement(), batch_size=256)
    learn = on_policy(advantages, buffer, update, epochs=4)
    collector = SyncDataCollector(env, actor, frames_per_batch=1024, total_frames=config.total_frames)
    return Pipeline(collector, learn, actor)
