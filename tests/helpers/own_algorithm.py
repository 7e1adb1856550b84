"""The source of a small algorithm as a user writes it: PPO with a Config that inherits nothing."""

from pathlib import Path

SOURCE = '''"""A small PPO of mine.

More about it.
"""

from dataclasses import dataclass

import torch
from torchrl.data import LazyTensorStorage, ReplayBuffer, SamplerWithoutReplacement

from rlpipe import (
    GAE, MLP, CategoricalActor, ClipPPOLoss, Critic, EnvConfig, Pipeline, Seeds, SyncDataCollector, gradient_step,
    make_env, on_policy,
)


@dataclass(frozen=True)
class Config:
    env_id: str = "CartPole-v1"
    seed: int = 0
    total_frames: int = 512
    lr: float = 3e-3
    """Learning rate of mine."""
    hidden: tuple[int, ...] = (16,)


def build(config):
    seeds = Seeds(config.seed)
    env = make_env(EnvConfig(config.env_id, num_envs=4), seed=seeds.integer("environments"))
    with seeds.torch_seeded("initialization"):
        actor = CategoricalActor(MLP(4, 2, config.hidden), env.action_spec, generator=seeds.generator("exploration"))
        critic = Critic(MLP(4, 1, config.hidden))
    loss = ClipPPOLoss(actor, critic)
    optimizer = torch.optim.Adam(loss.parameters(), lr=config.lr)
    update = gradient_step(loss, optimizer, max_norm=0.5)
    buffer = ReplayBuffer(
        storage=LazyTensorStorage(64),
        sampler=SamplerWithoutReplacement(),
        batch_size=32,
        generator=seeds.generator("replay"),
    )
    learn = on_policy(GAE(critic), buffer, update, epochs=1, keys=loss.in_keys)
    collector = SyncDataCollector(env, actor, frames_per_batch=64, total_frames=config.total_frames)
    state = {"policy": actor, "loss": loss, "optimizer": optimizer, "random": seeds}
    return Pipeline(collector, learn, actor, state)
'''
MAKES_ENV = """    seeds = Seeds(config.seed)
    env = make_env(EnvConfig(config.env_id, num_envs=4), seed=seeds.integer("environments"))"""


def write(path="mine.py", *changes):
    """Write the source, with pairs of texts replaced, and return its path."""
    text = SOURCE
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)
