"""PPO (Schulman et al. 2017) with a convolutional network on a custom environment, a grid shown as an image.

The agent (red) walks to the goal (green); pits (blue) end the episode.
`rlpipe train examples/pixel_grid.py --seeds 0-4`: 1, at random -0.8.
"""

from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import torch
from torch import nn
from torchrl.data import LazyTensorStorage, ReplayBuffer, SamplerWithoutReplacement

from rlpipe import GAE, ClipPPOLoss, TrainConfig, gradient_step, make_pipeline, on_policy, set_up
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


@dataclass(frozen=True)
class Config(TrainConfig):
    env_id: str = PixelGrid
    max_episode_steps: int = 30
    num_envs: int = 16
    rollout_steps: int = 64
    total_frames: int = 16_384


def network(outputs):
    convolutions = nn.Conv2d(3, 16, 4, stride=4), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU()
    return nn.Sequential(Pixels(), *convolutions, nn.Flatten(), MLP(512, outputs, (128,)))


def build(config):
    device, seeds, env = set_up(config)
    actor, critic = CategoricalActor(network(4), env.action_spec).to(device), Critic(network(1)).to(device)
    loss, gae = ClipPPOLoss(actor, critic), GAE(critic, gamma=0.9)
    update = gradient_step(loss, torch.optim.Adam(loss.parameters(), lr=1e-3), max_norm=0.5, execution="recorded")
    buffer = ReplayBuffer(storage=LazyTensorStorage(1024), sampler=SamplerWithoutReplacement(), batch_size=256)
    return make_pipeline(config, env, actor, on_policy(gae, buffer, update, epochs=4), seeds)
