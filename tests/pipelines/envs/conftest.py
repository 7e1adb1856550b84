"""Environments registered for the time of a test, and what they return."""

import gymnasium as gym
import pytest
import torch

from rlpipe.pipelines.envs import EnvConfig, make_env


@pytest.fixture
def register():
    """Registers an environment for the time of a test."""
    names = []

    def add(entry_point, **options):
        names.append(f"tests/Here{len(names)}-v0")
        gym.register(names[-1], entry_point, **options)
        return names[-1]

    yield add
    for name in names:
        del gym.registry[name]


@pytest.fixture
def rollout():
    """Plays at random: `rollout(env_id, backend, num_envs, steps)`."""

    def play(env_id, backend="sync", num_envs=2, steps=12):
        env = make_env(EnvConfig(env_id, num_envs, backend), seed=0)
        try:
            torch.manual_seed(0)
            return env.rollout(steps, break_when_any_done=False)
        finally:
            env.close()

    return play
