"""Environments registered on the spot, and what stepping them gives."""

import itertools

import gymnasium as gym
import numpy as np
import torch

from rlpipe.pipelines.envs import EnvConfig, make_env
from rlpipe.pipelines.envs.vector import as_tensordict

_numbers = itertools.count()


def register(entry_point, **options):
    """Register an environment, and return its id."""
    env_id = f"tests/Here{next(_numbers)}-v0"
    gym.register(env_id, entry_point, **options)
    return env_id


def walk(env, steps):
    """Roots and steps of a `VectorEnv`, `[num_envs, steps]`; made tensors of at the end, as the lean collector does."""
    env.restart()
    taken = [(env.root, env.advance(np.zeros(env.action_spec.shape, np.int64))) for _ in range(steps)]
    roots, after = (torch.stack([as_tensordict(each) for each in row], 1) for row in zip(*taken, strict=True))
    return roots.set("next", after)


def rollout(env_id, backend="sync", num_envs=2, steps=12):
    """The same of new environments."""
    env = make_env(EnvConfig(env_id, num_envs, backend), seed=0)
    try:
        return walk(env.base_env, steps)
    finally:
        env.close()
