"""The collector of a Config: in this process, in others, or on Ray."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from tensordict.nn import TensorDictModuleBase
from torchrl.collectors import BaseCollector
from torchrl.envs import TransformedEnv

from rlpipe.arithmetic import ceil_div
from rlpipe.errors import ConfigError, first_line
from rlpipe.pipelines.collectors.collector import SyncDataCollector
from rlpipe.pipelines.collectors.processes import AsyncProcesses, SyncProcesses
from rlpipe.pipelines.collectors.worker import shares
from rlpipe.pipelines.config.train import TrainConfig
from rlpipe.pipelines.devices import check_memory
from rlpipe.pipelines.replay.state import transition_bytes
from rlpipe.pipelines.seeding import Seeds


def check_device(config: TrainConfig) -> torch.device:
    """The device of a config; of several GPUs, PyTorch's current one.

    Raises:
        ConfigError: the device is CUDA, and it is not available or does not work.
    """
    if config.device == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError(
            "device is 'cuda', but PyTorch finds no CUDA device here; use --device cpu, or use a machine with a GPU"
        )
    try:
        # with its number, because 'cuda' and 'cuda:0' are not equal
        return torch.device("cuda", torch.cuda.current_device())
    except RuntimeError as error:
        raise ConfigError(f"device is 'cuda', and the CUDA device here does not work: {first_line(error)}") from error


def env_device(config: TrainConfig) -> torch.device:
    """Where environments that are tensors are: on the run's device, but in other processes on the CPU."""
    return check_device(config) if config.collector == "local" else torch.device("cpu")


def make_collector(
    config: TrainConfig, env: TransformedEnv, policy: TensorDictModuleBase, frames_per_batch: int
) -> BaseCollector:
    """Make a collector over `env`, or over copies of it in other processes; `total_frames` in whole batches.

    Raises:
        ConfigError: a batch does not fit into memory, or a collector cannot be started.
    """
    steps = f"rollout_steps is {frames_per_batch // config.num_envs} with num_envs {config.num_envs}"
    both = [*env.observation_spec.keys(True, True), *env.done_spec.keys(True, True)]
    size = frames_per_batch * (2 * transition_bytes(env, both) + transition_bytes(env, ["action", "reward"]))
    where = check_device(config)
    check_memory(f"{steps}, a batch of which takes", size, where)
    total_frames = ceil_div(config.total_frames, frames_per_batch) * frames_per_batch
    if config.collector != "local":
        return _make_distributed(config, env, policy, frames_per_batch, total_frames)
    device = {"policy_device": where, "env_device": env.device, "storing_device": where}
    if where == env.device:
        device = {}
    return SyncDataCollector(
        env,
        policy,
        frames_per_batch=frames_per_batch,
        total_frames=total_frames,
        track_traj_ids=False,
        use_buffers=False,
        trust_policy=True,
        **device,
    )


def _make_distributed(
    config: TrainConfig, env: TransformedEnv, policy: TensorDictModuleBase, frames_per_batch: int, total_frames: int
) -> BaseCollector:
    on_ray: dict[str, Any] = {}
    if config.collector == "ray":
        if importlib.util.find_spec("ray") is None:
            raise ConfigError('collector is "ray", which needs Ray; install it with: pip install "rlpipe[ray]"')
        from rlpipe.pipelines.collectors.ray_collector import AsyncRay, SyncRay  # noqa: PLC0415 - an extra
        from rlpipe.pipelines.collectors.ray_placement import Resources  # noqa: PLC0415 - an extra

        kind: Any = AsyncRay if config.asynchronous else SyncRay
        resources = Resources(config.ray_cpus, config.ray_gpus, config.ray_memory)
        on_ray = {"address": config.ray_address, "resources": resources}
    else:
        kind = AsyncProcesses if config.asynchronous else SyncProcesses
    makers = shares(config.env, env, config.num_collectors)
    # a simulator may not allow one more copy
    env.close()
    return kind(
        makers,
        policy,
        **on_ray,
        frames_per_batch=frames_per_batch,
        total_frames=total_frames,
        transforms=env.transform,
        seed=Seeds(config.seed).integer("process"),
        device=config.device,
        threads=config.threads,
    )
