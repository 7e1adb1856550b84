"""From an `EnvConfig` to a `TensorEnv`, where its environments are tensors."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from gymnasium.envs.registration import EnvSpec

from rlpipe.errors import ConfigError
from rlpipe.pipelines.envs.arguments.given import Maker, is_torchrl
from rlpipe.pipelines.envs.arguments.names import as_arguments
from rlpipe.pipelines.envs.arguments.signature import needed_by
from rlpipe.pipelines.envs.builtin.register import SIMULATORS
from rlpipe.pipelines.envs.config import EnvConfig
from rlpipe.pipelines.envs.tensor.env import TensorEnv
from rlpipe.pipelines.envs.tensor.simulator import SimulatedEnv
from rlpipe.pipelines.envs.tensor.torchrl_env import adopt


def make_tensor_env(
    config: EnvConfig, spec: EnvSpec, *, seed: int | None, render_mode: str | None, device: torch.device
) -> TensorEnv | None:
    """The environments of a config that are tensors, on `device` if they can be anywhere; `None` if they are arrays.

    Those of `SIMULATORS` are tensors on backend `auto`. To be drawn or wrapped, with arguments, and on other backends,
    they are their twins of Gymnasium.

    Raises:
        ConfigError: they cannot be made, or are TorchRL's and are asked for what those do not have.
    """
    given: Any = spec.entry_point
    # no function that makes an environment of Gymnasium needs these
    if isinstance(given, Maker) and {"num_envs", "batch_size"} & set(needed_by(given.make)):
        given = given.make
    if is_torchrl(given) or given is not spec.entry_point:
        return adopt_given(given, config, spec, seed=seed, render_mode=render_mode, device=device)
    changed = config.is_wrapped or config.kwargs
    plain = config.backend == "auto" and not changed and render_mode is None
    if spec.id not in SIMULATORS or not plain:
        return None
    module, _, class_name = SIMULATORS[spec.id].partition(":")
    limit = config.max_episode_steps or spec.max_episode_steps
    assert limit is not None
    simulator = getattr(importlib.import_module(module), class_name)(config.num_envs, device)
    return SimulatedEnv(simulator, limit, seed=seed)


def adopt_given(
    given: Any,
    config: EnvConfig,
    spec: EnvSpec,
    *,
    seed: int | None,
    render_mode: str | None,
    device: torch.device,
) -> TensorEnv:
    """The environments of a config that are TorchRL's, which the class, function or instance `given` makes.

    Raises:
        ConfigError: they cannot be made, or are asked for what TorchRL's do not have.
    """
    name = config.env_id if not config.env_id.startswith("<") else spec.id
    if config.backend != "auto" or config.from_pixels or render_mode is not None:
        raise ConfigError(f"{name} is a TorchRL environment: it has only backend 'auto', and rlpipe cannot draw it")
    if config.is_wrapped:
        raise ConfigError(f"{name} is a TorchRL environment, which takes no wrappers of Gymnasium; give it transforms")
    if config.log_info:
        raise ConfigError(f"{name} is a TorchRL environment, which has no infos; log_info needs one of Gymnasium")
    kwargs = as_arguments(config.kwargs, "kwargs").given()
    limit = config.max_episode_steps
    return adopt(given, name, config.num_envs, kwargs=kwargs, limit=limit, seed=seed, device=device)
