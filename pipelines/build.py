"""From a Config's shared fields to the parts they describe."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from tensordict.nn import TensorDictModuleBase
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler
from torchrl.data import Categorical
from torchrl.envs import EnvBase

from rlpipe.errors import ConfigError
from rlpipe.modules import MLP, CategoricalActor, GaussianActor, encoder
from rlpipe.pipelines.collector import SyncDataCollector
from rlpipe.pipelines.config import NetworkConfig, OptimizerConfig, TrainConfig


def check_device(config: TrainConfig) -> torch.device:
    """The device of a config.

    Raises:
        ConfigError: CUDA was asked for and there is none.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device is 'cuda', but PyTorch finds no CUDA device here; use --device cpu")
    return torch.device(config.device)


def make_trunk(config: NetworkConfig, env: EnvBase) -> nn.Sequential:
    """Observation `[*B, ...]` to the features of the last hidden layer, `[*B, config.hidden[-1]]`.

    Raises:
        ConfigError: `observation_scale` does not fit the observation.
    """
    try:
        first = encoder(env.observation_spec["observation"], len(env.batch_size), config.observation_scale)
    except ValueError as error:
        raise ConfigError(f"observation_{error}") from error
    layers = MLP(
        first.features,
        None,
        config.hidden,
        activation=config.activation,
        initialization=config.initialization,
        layer_norm=config.layer_norm,
    )
    return nn.Sequential(first, *layers)


def make_actor(
    config: NetworkConfig, env: EnvBase, trunk: nn.Sequential, generator: torch.Generator
) -> CategoricalActor | GaussianActor:
    """The stochastic policy that the environment's actions call for.

    Raises:
        ConfigError: Box actions without finite bounds.
    """
    spec = env.action_spec
    discrete = isinstance(spec, Categorical)
    outputs = int(spec.space.n) if discrete else math.prod(spec.shape[len(env.batch_size) :])
    head = MLP(config.hidden[-1], outputs, (), initialization=config.initialization, gain=0.01)
    network = nn.Sequential(*trunk, *head)
    try:
        if discrete:
            return CategoricalActor(network, spec, generator)
        return GaussianActor(network, spec, generator, batch_dims=len(env.batch_size))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def make_optimizer(
    config: OptimizerConfig, parameters: Iterable[nn.Parameter], batches: int
) -> tuple[torch.optim.Optimizer, LRScheduler | None]:
    """The optimiser, and the schedule that steps once a collected batch.

    Args:
        config: which, and how fast.
        parameters: to learn.
        batches: collected batches in the whole run, where a falling learning rate reaches 0.
    """
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimizer]
    optimizer = kind(parameters, lr=config.lr, eps=config.adam_eps, amsgrad=config.amsgrad, fused=True)
    if config.lr_schedule == "linear":
        return optimizer, LinearLR(optimizer, 1.0, 0.0, total_iters=batches)
    if config.lr_schedule == "cosine":
        return optimizer, CosineAnnealingLR(optimizer, T_max=batches)
    return optimizer, None


def make_collector(
    config: TrainConfig, env: EnvBase, policy: TensorDictModuleBase, frames_per_batch: int
) -> SyncDataCollector:
    """A collector over `env` with the settings that rlpipe's pipelines share; `total_frames` in whole batches."""
    device: dict[str, Any] = {}
    if config.device != "cpu":
        device = {"policy_device": config.device, "env_device": "cpu", "storing_device": config.device}
    return SyncDataCollector(
        env,
        policy,
        frames_per_batch=frames_per_batch,
        total_frames=-(-config.total_frames // frames_per_batch) * frames_per_batch,
        auto_register_policy_transforms=False,
        track_traj_ids=False,
        use_buffers=False,
        trust_policy=True,
        **device,
    )
