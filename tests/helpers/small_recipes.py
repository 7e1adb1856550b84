"""Each deep recipe with few frames and small networks."""

import dataclasses

import torch

from rlpipe.pipelines.algorithms.recipes import RECIPES

DEEP = [name for name, recipe in RECIPES.items() if recipe.algorithm in ("dqn", "qr_dqn", "ppo", "a2c", "reinforce")]


BATCHES = 5


SMALL = {
    "num_envs": 3,
    "rollout_steps": 8,
    "total_frames": BATCHES * 24,
    "hidden": (8,),
    "backend": "auto",
    "max_episode_steps": 6,
    "minibatch_size": 8,
    "updates": 3,
    "epochs": 2,
    "buffer_size": 60,
    "warmup_frames": 30,
    "shaping_steps": 6,
    "total_episodes": None,
}


# more than the recipes have
OPTIONS = {
    "reinforce": {"baseline": True},
    "ppo/inverted-double-pendulum": {"env_id": "Pendulum-v1"},
    "ppo/positions": {"recurrent_size": 4},
    "a2c": {"env_id": "rlpipe/Maze-v0"},
    "dqn": {"env_id": "rlpipe/Maze-v0", "dueling": True},
    "qr-dqn": {"env_id": "rlpipe/Maze-v0", "dueling": True},
    "dqn/target-network": {"env_id": "FrozenLake-v1", "reward_shaping": "none", "target_every": 2, "tau": 1.0},
    "ppo": {"value_clip": 0.2, "shared_trunk": True},
    "a2c/eight-workers": {"env_id": "Pendulum-v1", "state_dependent_std": True, "entropy_coefficient": 0.1},
}


def small(name, device, **changes):
    """A recipe's config with few frames and small networks."""
    config = RECIPES[name].config()
    known = {field.name for field in dataclasses.fields(config)}
    settings = {**SMALL, **OPTIONS.get(name, {}), **changes, "device": device}
    return dataclasses.replace(config, **{key: value for key, value in settings.items() if key in known})


def plain(state):
    """A state's tensors, on the host."""
    return {key: value.cpu() if isinstance(value, torch.Tensor) else value for key, value in state.items()}
