"""Random network distillation, Burda et al. 2019: PPO that is paid for states that are new, where reward is rare.

The bonus is the error of a network that learns what a random one gives, in units of its running mean; a second critic
values it beyond the ends of episodes. `rlpipe train examples/rnd.py --seeds 0-9`: 1 on nine; `--curiosity 0`: 0 on all.
"""

from dataclasses import dataclass, field

import torch
from gymnasium.envs.toy_text.frozen_lake import generate_random_map
from torchrl.data import LazyTensorStorage, ReplayBuffer, SamplerWithoutReplacement

from rlpipe import GAE, ClipPPOLoss, RolloutConfig, TrainConfig, gradient_step, make_pipeline, on_policy, set_up
from rlpipe.modules import MLP, CategoricalActor, Critic, Network, OneHot


@dataclass(frozen=True)
class Config(RolloutConfig, TrainConfig):
    env_id: str = "FrozenLake-v1"
    env_kwargs: dict = field(default_factory=lambda: {"desc": generate_random_map(16, 0.85, 1), "is_slippery": False})
    num_envs: int = 16
    total_frames: int = 40_960
    curiosity: float = 0.1


class RNDLoss(ClipPPOLoss):
    def __init__(self, actor, critic, bonus_critic, predictor, random):
        super().__init__(actor, critic)
        self.bonus_critic, self.predictor, self.random = bonus_critic, predictor, random.requires_grad_(False)
        self.register_buffer("scale", torch.zeros(()))
        self.in_keys = [*self.in_keys, ("next", "observation"), "bonus_value_target"]

    def novelty(self, state):
        return (self.predictor(state) - self.random(state)).square().mean(-1, keepdim=True)

    def forward(self, batch):
        error = self.bonus_critic.compute(batch["observation"])[0] - batch["bonus_value_target"]
        losses = super().forward(batch).set("loss_novelty", self.novelty(batch["next", "observation"]).mean())
        return losses.set("loss_bonus_value", 0.5 * error.square().mean())


def build(config):
    device, seeds, env = set_up(config)
    networks = [Network(OneHot(256), *MLP(256, size, activation="tanh")) for size in (4, 1, 1, 32, 32)]
    actor, critic = CategoricalActor(networks[0], env.action_spec), Critic(networks[1])
    loss = RNDLoss(actor, critic, Critic(networks[2], out_keys=["bonus_value"]), *networks[3:]).to(device)
    gae, bonus_gae = GAE(critic, gamma=config.gamma), GAE(loss.bonus_critic)
    bonus_gae.set_keys(**{key: f"bonus_{key}" for key in vars(bonus_gae.tensor_keys)})

    def advantages(batch):
        after, never = batch["next"], batch["next", "done"] & False
        novelty = loss.novelty(after["observation"]).detach()
        bonus = novelty / loss.scale.lerp_(novelty.mean(), 0.01)
        after.update({"bonus_reward": bonus, "bonus_done": never, "bonus_terminated": never})
        batch = bonus_gae(gae(batch))
        return batch.set("advantage", batch["advantage"] + config.curiosity * batch["bonus_advantage"])

    update = gradient_step(loss, torch.optim.Adam(loss.parameters(), lr=1e-3), max_norm=0.5, execution="recorded")
    buffer = ReplayBuffer(storage=LazyTensorStorage(1024), sampler=SamplerWithoutReplacement(), batch_size=256)
    return make_pipeline(config, env, actor, on_policy(advantages, buffer, update, epochs=4), seeds)
