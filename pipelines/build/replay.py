"""The replay buffer of a Config."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict.utils import NestedKey
from torchrl.envs import EnvBase

from rlpipe.errors import ConfigError
from rlpipe.pipelines.devices import check_memory
from rlpipe.pipelines.replay.image_buffer import ImageReplay, images_for, numbered
from rlpipe.pipelines.replay.state import transition_kinds


def make_frame_replay(
    env: EnvBase,
    keys: Sequence[NestedKey],
    *,
    num_envs: int,
    buffer_size: int,
    minibatch_size: int,
    device: torch.device,
    on_disk: bool,
    generator: torch.Generator,
) -> ImageReplay:
    """A `ImageReplay` for an environment's observations.

    Args:
        env: like those whose batches it keeps; of fewer, where collectors share them.
        keys: what is stored of a transition.
        num_envs: of all of them.
        buffer_size: transitions.
        minibatch_size: of minibatches.
        device: where they are.
        on_disk: keep the frames there.
        generator: to draw with.

    Raises:
        ConfigError: the observations are no stacks of frames, or there is no room.
    """
    spec = env.observation_spec["observation"]
    shape = spec.shape[len(env.batch_size) :]
    if not can_keep_frames(env):
        raise ConfigError(
            f"replay_storage keeps frames, which needs observations [C, H, W] of uint8, C stacked frames; these are "
            f"{list(shape)} of {spec.dtype}; --replay-storage transitions keeps any"
        )
    frames = images_for(buffer_size, shape[0], num_envs)
    kinds = numbered(transition_kinds(env, keys), shape).values()
    transition = sum(kind.shape.numel() * kind.dtype.itemsize for kind in kinds)
    size = buffer_size * transition + (0 if on_disk else frames * shape[1:].numel())
    way_out = "take a smaller --buffer-size" + ("" if on_disk else " or --replay-storage frames-on-disk")
    check_memory(f"buffer_size is {buffer_size}, which takes", size, device, way_out)
    try:
        return ImageReplay(
            buffer_size,
            shape,
            num_images=frames,
            device=device,
            on_disk=on_disk,
            batch_size=minibatch_size,
            generator=generator,
        )
    except ConfigError as error:
        raise ConfigError(f"buffer_size is {buffer_size}: {error}") from error


def can_keep_frames(env: EnvBase) -> bool:
    """Whether the observations of an environment look like stacks of frames: uint8 `[C, H, W]`, channels first."""
    spec = env.observation_spec["observation"]
    shape = spec.shape[len(env.batch_size) :]
    return spec.dtype is torch.uint8 and len(shape) == 3 and shape[0] <= shape[2]
