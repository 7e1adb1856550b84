"""TD3 on Pendulum-v1: two critics, and an actor that learns at every second step of theirs.

Fujimoto et al. 2018, Algorithm 1. `rlpipe train examples/td3.py --seeds 0-9`: -140 to -168, at random -1200.
"""

from dataclasses import dataclass

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictSequential
from torch.nn import ModuleDict, ModuleList
from torchrl.data import LazyTensorStorage, ReplayBuffer

from rlpipe import TargetUpdate, TrainConfig, every, gradient_step, in_turn, make_pipeline, off_policy, set_up
from rlpipe.losses import frozen, frozen_copy
from rlpipe.modules import MLP, ActionValueCritic, DeterministicActor, GaussianNoise


@dataclass(frozen=True)
class Config(TrainConfig):
    env_id: str = "Pendulum-v1"
    num_envs: int = 8
    total_frames: int = 16_000
    lr: float = 1e-3


class CriticLoss(ModuleDict):
    def forward(self, batch):
        actor, after = self.target.actor, batch["next"]
        with torch.no_grad():
            (action,) = actor.compute(after["observation"])
            noise = (0.2 * torch.randn_like(action)).clamp(-0.5, 0.5) * (actor.high - actor.low) / 2
            action = (action + noise).clamp(actor.low, actor.high)
            value = torch.minimum(*(critic.compute(after["observation"], action)[0] for critic in self.target.critics))
            target = after["reward"] + 0.99 * ~after["terminated"] * value
        errors = [critic.compute(batch["observation"], batch["action"])[0] - target for critic in self.online.critics]
        return TensorDict(loss_critics=torch.stack(errors).square().mean(1).sum())


class ActorLoss(ModuleDict):
    def forward(self, batch):
        with frozen(self.online.critics):
            (action,) = self.online.actor.compute(batch["observation"])
            return TensorDict(loss_actor=-self.online.critics[0].compute(batch["observation"], action)[0].mean())


def build(config):
    device, seeds, env = set_up(config)
    critics = ModuleList(ActionValueCritic(MLP(4, 1), env.action_spec) for _ in range(2))
    online = ModuleDict({"actor": DeterministicActor(MLP(3, 1), env.action_spec), "critics": critics}).to(device)
    networks = {"online": online, "target": frozen_copy(online)}
    follow = TargetUpdate(online, networks["target"], tau=0.01)
    critic_adam, actor_adam = (torch.optim.Adam(each.parameters(), lr=config.lr) for each in (critics, online.actor))
    critic_step = gradient_step(CriticLoss(networks), critic_adam, execution="recorded")
    actor_step = gradient_step(ActorLoss(networks), actor_adam, after=[follow], execution="recorded")
    buffer = ReplayBuffer(storage=LazyTensorStorage(config.total_frames, device=device), batch_size=128)
    keys = ["observation", "action", *(("next", key) for key in ("observation", "reward", "terminated"))]
    learn = off_policy(buffer, in_turn(critic_step, every(2, actor_step)), updates=4, warmup=1_000, keys=keys)
    policy = TensorDictSequential(online.actor, GaussianNoise(env.action_spec, std=0.2))
    return make_pipeline(config, env, policy, learn, seeds)
