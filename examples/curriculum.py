"""A curriculum: the start moves away from the goal whenever the agent reaches the goal often, by a listener.

Reverse curriculum, Florensa et al. 2017, with PPO on a frozen lake of 16 x 16 cells whose only reward is 1 at the goal.
`rlpipe train examples/curriculum.py --seeds 0-4`: 1; with `--distance 30`, the whole way from the beginning: 0.
"""

from dataclasses import dataclass

import gymnasium as gym
import torch
from gymnasium.envs.toy_text.frozen_lake import generate_random_map
from torchrl.data import LazyTensorStorage, ReplayBuffer, SamplerWithoutReplacement

from rlpipe import GAE, MLP, ClipPPOLoss, EnvConfig, Pipeline, SyncDataCollector, gradient_step, make_env, on_policy
from rlpipe.modules import CategoricalActor, Critic, Network, OneHot


def lake(distance=30):
    """A frozen lake with the goal in its last corner; an episode begins on a cell this many moves away from it."""
    ice = [row.replace("S", "F") for row in generate_random_map(16, p=0.85, seed=1)]
    for row, line in enumerate(ice):
        column = 30 - distance - row
        if 0 <= column < 16 and line[column] == "F":
            ice[row] = f"{line[:column]}S{line[column + 1 :]}"
    return gym.make("FrozenLake-v1", desc=ice, is_slippery=False, max_episode_steps=100)


@dataclass(frozen=True)
class Config:
    env_id: str = lake
    seed: int = 0
    total_frames: int = 61_440
    distance: int = 1
    """Moves from the start to the goal when training begins; evaluations begin 30 moves away."""


def move_start(moment):
    if moment.stage == "learned":
        after, distance = moment.batch["next"], moment.pipeline.env_kwargs["distance"]
        moment.scalars["distance"] = distance
        if distance < 30 and after["reward"].sum() > 0.8 * after["done"].sum():
            moment.pipeline.change_env(distance=distance + 1)


def build(config):
    lakes = EnvConfig(config.env_id, num_envs=16, kwargs={"distance": config.distance})
    env = make_env(lakes, seed=config.seed)
    actor, critic = (Network(OneHot(256), *MLP(256, outputs, activation="tanh")) for outputs in (4, 1))
    actor, critic = CategoricalActor(actor, env.action_spec), Critic(critic)
    loss = ClipPPOLoss(actor, critic)
    optimizer = torch.optim.Adam(loss.parameters(), lr=2e-3, fused=True)
    update = gradient_step(loss, optimizer, max_norm=0.5, execution="recorded")
    buffer = ReplayBuffer(storage=LazyTensorStorage(1024), sampler=SamplerWithoutReplacement(), batch_size=256)
    learn = on_policy(GAE(critic), buffer, update, epochs=4)
    collector = SyncDataCollector(env, actor, frames_per_batch=1024, total_frames=config.total_frames)
    return Pipeline(collector, learn, actor, listeners=[move_start])
