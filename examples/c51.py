"""Categorical DQN (C51) on CartPole-v1: Bellemare et al. 2017, Algorithm 1, as a custom loss.

Reaches 317 to 469 on seeds 0 to 4 (random: 22), in 9 s.
"""

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictSequential
from torchrl.data import LazyTensorStorage, ReplayBuffer

from rlpipe import EnvConfig, SyncDataCollector, evaluate, gradient_step, make_env, off_policy
from rlpipe.losses import NStep, TargetUpdate, frozen_copy, functional
from rlpipe.modules import MLP, EpsilonGreedy, Linear, QActor


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
            reward, discount = after["reward"].squeeze(-1), after["discount"].squeeze(-1)
            target = functional.categorical_projection(p[row, (p @ atoms).argmax(-1)], reward, discount, atoms)
        log_prob = self.network.log_prob(batch["observation"])[row, batch["action"]]
        return TensorDict({"loss_cross_entropy": -(target * log_prob).sum(-1).mean()})


def main(seed: int = 0, total_frames: int = 30_720):
    torch.manual_seed(seed)
    env = make_env(EnvConfig("CartPole-v1", num_envs=16), seed=seed)
    network = Distributions(4, 2 * 51, (128, 128), layer_norm=True)
    actor, explorer = QActor(network, env.action_spec), EpsilonGreedy(env.action_spec, Linear(1.0, 0.05, frames=5_000))
    loss, optimizer = C51Loss(network), torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_frames // 16)
    after = [TargetUpdate(network, loss.target_network, tau=0.05), schedule.step]
    update = gradient_step(loss, optimizer, max_norm=10.0, after=after, execution="recorded")
    buffer = ReplayBuffer(storage=LazyTensorStorage(50_000), batch_size=128)
    look_ahead, learn = NStep(gamma=0.99, n=3), off_policy(buffer, update, updates=8, warmup=1_000, keys=loss.in_keys)
    policy = TensorDictSequential(actor, explorer)
    for batch in SyncDataCollector(env, policy, frames_per_batch=128, total_frames=total_frames):
        explorer.advance(batch)
        learn(look_ahead(batch))
    return evaluate(actor, EnvConfig("CartPole-v1"), episodes=50, seed=1_000 + seed)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(f"mean return {main().mean:.1f} over 50 greedy episodes; at random 22")
