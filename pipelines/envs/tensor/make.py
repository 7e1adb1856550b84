"""From an `EnvConfig` to a `TensorEnv`, where its environments are tensors."""

from __future__ import annotations

import importlib

import torch
from gymnasium.envs.registration import EnvSpec

from rlpipe.errors import ConfigError
from rlpipe.pipelines.envs.builtin.register import SIMULATORS
from rlpipe.pipelines.envs.config import EnvConfig
from rlpipe.pipelines.envs.tensor.env import TensorEnv
from rlpipe.pipelines.envs.tensor.simulator import SimulatedEnv


def is_simulated(config: EnvConfig, spec: EnvSpec, render_mode: str | None = None) -> bool:
    """Whether an environment of rlpipe is stepped in tensors; for images its twin of Gymnasium is."""
    return spec.id in SIMULATORS and config.backend == "auto" and not config.from_pixels and render_mode is None


def make_simulated(config: EnvConfig, spec: EnvSpec, *, seed: int | None, device: torch.device) -> TensorEnv:
    """The environments of one of `SIMULATORS`.

    Raises:
        ConfigError: there is not enough memory for so many.
    """
    module, _, name = SIMULATORS[spec.id].partition(":")
    simulator = getattr(importlib.import_module(module), name)
    limit = config.max_episode_steps or spec.max_episode_steps
    assert limit is not None
    try:
        return SimulatedEnv(simulator(config.num_envs, device), limit, seed=seed)
    except (MemoryError, RuntimeError) as error:
        raise ConfigError(f"num_envs is {config.num_envs}; there is not enough memory for that many") from error
