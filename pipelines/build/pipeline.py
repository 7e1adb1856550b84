"""What the algorithms' `build` begins and ends with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from tensordict.nn import TensorDictModuleBase
from torch import nn
from torchrl.envs import ObservationNorm, TransformedEnv

from rlpipe.pipelines.build.collector import check_device, make_collector
from rlpipe.pipelines.build.environment import make_training_env
from rlpipe.pipelines.build.schedules import make_schedules
from rlpipe.pipelines.config.train import TrainConfig
from rlpipe.pipelines.envs.normalization.running import RunningObservationNorm, RunningRewardNorm
from rlpipe.pipelines.pipeline import Pipeline, Update
from rlpipe.pipelines.seeding import Seeds

_STATISTICS: dict[str, Any] = {
    "observation_norm": (ObservationNorm, RunningObservationNorm),
    "reward_norm": RunningRewardNorm,
}
"""Components of checkpoints with the transforms that normalise."""


def set_up(config: TrainConfig) -> tuple[torch.device, Seeds, TransformedEnv]:
    """The device, the random streams and the training environment.

    Raises:
        ConfigError: the device or the environment is not available, or does not fit the config.
    """
    device, seeds = check_device(config), Seeds(config.seed)
    return device, seeds, make_training_env(config, seeds)


def make_pipeline(
    config: TrainConfig,
    env: TransformedEnv,
    policy: TensorDictModuleBase,
    learn: Update,
    seeds: Seeds,
    *,
    listeners: Sequence[Callable[[Any], object]] = (),
    numbers: Mapping[str, Any] | None = None,
    **parts: Any,
) -> Pipeline:
    """Put a collector in front of `learn`, and name what a checkpoint holds.

    A checkpoint holds the policy, the random streams, the statistics that observations and rewards are normalised by if
    any, and `parts`: everything else that changes in training, by name. Those that are `None` are left out. `listeners`
    are called at the moments of the training loop.

    `numbers` says where fields of the config are used that may change during training (`--clip linear:0.2:0`), as
    `{"clip": loss, "max_grad_norm": (update, "max_norm")}`: the object that has the number, with its name there if that
    is another one.

    Raises:
        ConfigError: a batch does not fit into memory, or a collector cannot be started.
    """
    state = {"policy": policy, "random": seeds, **parts}
    for name, kinds in _STATISTICS.items():
        statistics = nn.ModuleList(each for each in env.transform if isinstance(each, kinds))
        if len(statistics):
            state[name] = statistics
    state = {name: part for name, part in state.items() if part is not None}
    schedules = make_schedules(config, numbers or {})
    collector = make_collector(config, env, policy, config.frames_per_batch)
    return Pipeline(collector, learn, policy, state, tuple(env.transform), (*schedules, *listeners))
