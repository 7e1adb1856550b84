"""PPO (Schulman et al. 2017) with a convolutional network on a custom environment, a grid shown as an image.

The agent (red) walks to the goal (green); pits (blue) end the episode. Reaches 1 of 1 on seeds 0 to 4, in 7 s.
"""

import gymnasium as gym
import numpy as np
import torch
from torch import nn
from torchrl.data import LazyTensorStorage, ReplayBuffer, SamplerWithoutReplacement

from rlpipe import EnvConfig, SyncDataCollector, evaluate, gradient_step, make_env, on_policy
from rlpipe.losses import GAE, ClipPPOLoss
from rlpipe.modules import MLP, CategoricalActor, Critic, Pixels

GOAL, PITS, MOVES = (5, 5), [(1, 1), (1, 4), (3, 2), (4, 4)], [(-1, 0), (1, 0), (0, -1), (0, 1)]


class PixelGrid(gym.Env):
    observation_space, action_space = gym.spaces.Box(0, 255, (24, 24, 3), np.uint8), gym.spaces.Discrete(4)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.agent = self.np_random.choice([cell for cell in np.ndindex(6, 6) if cell not in [GOAL, *PITS]])
        return self.image(), {}

    def step(self, action):
        self.agent = np.clip(self.agent + MOVES[action], 0, 5)
        reward = float(tuple(self.agent) == GOAL) - (tuple(self.agent) in PITS)
        return self.image(), reward, reward != 0, False, {}

    def image(self):
        cells = np.zeros((6, 6, 3), np.uint8)
        cells[(*self.agent, 0)] = cells[(*GOAL, 1)] = cells[(*np.transpose(PITS), 2)] = 255
        return cells.repeat(4, 0).repeat(4, 1)


def network(outputs):
    convolutions = nn.Conv2d(3, 16, 4, stride=4), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU()
    return nn.Sequential(Pixels(), *convolutions, nn.Flatten(), MLP(512, outputs, (128,)))


def main(seed: int = 0, total_frames: int = 16_384):
    torch.manual_seed(seed)
    env_config = EnvConfig(PixelGrid, num_envs=16, max_episode_steps=30)
    env = make_env(env_config, seed=seed)
    actor, critic = CategoricalActor(network(4), env.action_spec), Critic(network(1))
    loss = ClipPPOLoss(actor, critic)
    buffer = ReplayBuffer(storage=LazyTensorStorage(1024), sampler=SamplerWithoutReplacement(), batch_size=256)
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-3, fused=True)
    update = gradient_step(loss, optimizer, max_norm=0.5, execution="recorded")
    learn = on_policy(GAE(critic, gamma=0.9), buffer, update, epochs=4, keys=loss.in_keys)
    for batch in SyncDataCollector(env, actor, frames_per_batch=1024, total_frames=total_frames):
        learn(batch)
    return evaluate(actor, env_config, episodes=100, seed=1_000 + seed)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(f"mean return {main().mean:.2f} over 100 greedy episodes; at best 1, at random -0.8")
