"""From an `EnvConfig` to a `TensorEnv`, where its environments are tensors."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from gymnasium.envs.registration import EnvSpec
from torchrl.envs import EnvBase

from rlpipe.errors import ConfigError
from rlpipe.pipelines.envs.builtin.register import SIMULATORS
from rlpipe.pipelines.envs.config import EnvConfig
from rlpipe.pipelines.envs.tensor.env import TensorEnv
from rlpipe.pipelines.envs.tensor.simulator import SimulatedEnv
from rlpipe.pipelines.envs.tensor.torchrl_env import adopt


def make_tensor_env(
    config: EnvConfig, spec: EnvSpec, *, seed: int | None, render_mode: str | None, device: torch.device
) -> TensorEnv | None:
    """The environments of a config that are tensors, on `device` if they can be anywhere; `None` if they are arrays.

    Those of `SIMULATORS` are tensors on backend `auto`; to be drawn, and on other backends, they are their twins of
    Gymnasium.

    Raises:
        ConfigError: they cannot be made, or are TorchRL's and are asked for what those do not have.
    """
    if (given := _torchrl_kind(spec.entry_point)) is not None:
        name = config.env_id if isinstance(config.env_id, str) else spec.id
        _check_asked(config, name, render_mode)
        return adopt(given, name, config.num_envs, limit=config.max_episode_steps, seed=seed, device=device)
    if spec.id not in SIMULATORS or config.backend != "auto" or config.from_pixels or render_mode is not None:
        return None
    module, _, class_name = SIMULATORS[spec.id].partition(":")
    limit = config.max_episode_steps or spec.max_episode_steps
    assert limit is not None
    simulator = getattr(importlib.import_module(module), class_name)(config.num_envs, device)
    return SimulatedEnv(simulator, limit, seed=seed)


@dataclass(frozen=True)
class Maker:
    """A function that makes environments of TorchRL's, as an entry point."""

    make: Callable[..., Any]


def spec_of(given: Any) -> EnvSpec | None:
    """A spec for a class, an instance or a function of TorchRL's environments; `None` for anything else."""
    is_class = isinstance(given, type)
    if not callable(given) or (is_class and not issubclass(given, EnvBase)):
        return None
    name = str(getattr(given, "__qualname__", type(given).__name__))
    creator: Any = given if is_class or isinstance(given, EnvBase) else Maker(given)
    return EnvSpec("".join(each for each in name if each.isalnum() or each in "_."), entry_point=creator)


def _torchrl_kind(creator: Any) -> Any:
    """The class, instance or function of an entry point that is TorchRL's; `None` if it is anything else."""
    if isinstance(creator, Maker):
        return creator.make
    is_class = isinstance(creator, type) and issubclass(creator, EnvBase)
    return creator if is_class or isinstance(creator, EnvBase) else None


def _check_asked(config: EnvConfig, name: str, render_mode: str | None) -> None:
    if config.backend != "auto" or config.from_pixels or render_mode is not None:
        raise ConfigError(f"{name} is a TorchRL environment: it has only backend 'auto', and rlpipe cannot draw it")
