"""The replay buffer of a Config."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict.utils import NestedKey
from torchrl.data import LazyTensorStorage, ReplayBuffer
from torchrl.envs import EnvBase

from rlpipe.errors import ConfigError
from rlpipe.pipelines.config.groups import BufferConfig, ReplayConfig
from rlpipe.pipelines.devices import check_memory
from rlpipe.pipelines.replay.image_buffer import ImageReplay, images_for, numbered
from rlpipe.pipelines.replay.state import transition_bytes, transition_kinds
from rlpipe.pipelines.seeding import Seeds


def make_buffer(
    config: BufferConfig, env: EnvBase, keys: Sequence[NestedKey], seeds: Seeds, device: torch.device
) -> ReplayBuffer:
    """The replay buffer, empty, of these entries of a transition; an `ImageReplay` if the config keeps frames.

    `env`, one of several collectors', may have fewer environments than `config.num_envs`.

    Raises:
        ConfigError: there is no room for it, or it keeps frames and the observations are not stacks of frames.
    """
    frames = ""
    if isinstance(config, ReplayConfig):
        if config.replay_storage != "transitions":
            return _make_image_replay(config, env, keys, seeds, device)
        frames = " or --replay-storage frames" if can_keep_images(env) else ""
    size = config.buffer_size * transition_bytes(env, keys)
    way_out = f"take a smaller --buffer-size{frames}"
    check_memory(f"buffer_size is {config.buffer_size}, which takes", size, device, way_out)
    storage = LazyTensorStorage(config.buffer_size, device=device)
    return ReplayBuffer(storage=storage, batch_size=config.minibatch_size, generator=seeds.generator("replay", device))


def _make_image_replay(
    config: ReplayConfig, env: EnvBase, keys: Sequence[NestedKey], seeds: Seeds, device: torch.device
) -> ImageReplay:
    spec, on_disk = env.observation_spec.get("observation", None), config.replay_storage == "frames-on-disk"
    shape = spec.shape[len(env.batch_size) :] if spec is not None else torch.Size([])
    if not can_keep_images(env):
        these = "have no entry 'observation'" if spec is None else f"are {list(shape)} of {spec.dtype}"
        raise ConfigError(
            f"replay_storage keeps frames, which needs observations [C, H, W] of uint8, C stacked frames; these "
            f"{these}; --replay-storage transitions keeps any"
        )
    frames = images_for(config.buffer_size, shape[0], config.num_envs)
    kinds = numbered(transition_kinds(env, keys), shape).values()
    transition = sum(kind.shape.numel() * kind.dtype.itemsize for kind in kinds)
    size = config.buffer_size * transition + (0 if on_disk else frames * shape[1:].numel())
    way_out = "take a smaller --buffer-size" + ("" if on_disk else " or --replay-storage frames-on-disk")
    check_memory(f"buffer_size is {config.buffer_size}, which takes", size, device, way_out)
    try:
        return ImageReplay(
            config.buffer_size,
            shape,
            num_images=frames,
            device=device,
            on_disk=on_disk,
            batch_size=config.minibatch_size,
            generator=seeds.generator("replay"),
        )
    except ConfigError as error:
        raise ConfigError(f"buffer_size is {config.buffer_size}: {error}") from error


def can_keep_images(env: EnvBase) -> bool:
    """Whether the observations of an environment look like stacks of frames: uint8 `[C, H, W]`, channels first."""
    spec = env.observation_spec.get("observation", None)
    shape = spec.shape[len(env.batch_size) :] if spec is not None else torch.Size([])
    return len(shape) == 3 and spec.dtype is torch.uint8 and shape[0] <= shape[2]
