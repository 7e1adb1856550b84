"""Replay of pixels: transitions that know their frames by number, and minibatches that have them stacked."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor
from torchrl.data import LazyTensorStorage, ReplayBuffer
from torchrl.data.replay_buffers import RandomSampler
from torchrl.data.replay_buffers.storages import Storage
from torchrl.envs import EnvBase, Transform

from rlpipe.errors import ConfigError
from rlpipe.pipelines.fitting import Kind
from rlpipe.pipelines.frames import FrameStore
from rlpipe.pipelines.memory import check_disk, check_memory, transition_kinds
from rlpipe.pipelines.replay import ReplayState

STACKS: tuple[NestedKey, NestedKey] = ("observation", ("next", "observation"))
"""The entries of a transition that are stacks of frames."""
_LOG = logging.getLogger("rlpipe")
_TRIES = 32


class FrameReplay(ReplayBuffer):
    """A replay buffer of stacked frames that keeps each frame once, in a `FrameStore`, and stacks what it draws.

    A batch is numbered before it is stored, and before `NStep`, which then moves numbers instead of pixels:

        learn = off_policy(buffer, update, updates=4, warmup=1_000, keys=loss.in_keys)
        learn(look_ahead(buffer.number(batch)))

    It draws uniformly among all transitions whose frames are still kept. Each step needs a frame, and each episode one
    to C more; where these do not do, the oldest transitions are drawn no more, although they count in `len(buffer)`.
    While all are kept, it draws what a plain buffer of the same generator draws.

    Args:
        capacity: transitions; the oldest go first.
        shape: of an observation: `[C, H, W]`, C frames, newest last.
        num_frames: how many are kept; `frames_for(capacity, C)` by default, which does for episodes of 16 steps or more
            that begin with one frame repeated, or of 64 that begin with C different ones.
        device: where minibatches, and the frames, are.
        on_disk: keep the frames in a file; see `FrameStore`.
        batch_size: of minibatches.
        generator: to draw with.

    Raises:
        ConfigError: the disk has no room for it.
        ValueError: there are fewer frames than transitions.
    """

    def __init__(
        self,
        capacity: int,
        shape: Sequence[int],
        *,
        num_frames: int | None = None,
        device: torch.device | str = "cpu",
        on_disk: bool = False,
        batch_size: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        num_frames = frames_for(capacity, shape[0]) if num_frames is None else num_frames
        if num_frames < capacity + shape[0]:
            raise ValueError(f"num_frames is {num_frames}; allowed is {capacity + shape[0]} or more, capacity + C")
        self.frames = FrameStore(num_frames, shape, device=device, on_disk=on_disk)
        super().__init__(
            storage=LazyTensorStorage(capacity, device=device),
            sampler=_KeptSampler(self.frames, capacity),
            transform=_Stack(self.frames),
            batch_size=batch_size,
            generator=generator,
        )

    def number(self, batch: TensorDictBase) -> TensorDictBase:
        """Keep a batch's frames, and put their numbers in place of its observations; see `FrameStore.number`."""
        return self.frames.number(batch)

    def extend(self, data: Any, *, update_priority: bool | None = None) -> Tensor:
        """Store transitions `[B]` whose observations are numbers of frames `[B, C]`; returns their places."""
        places: Tensor = super().extend(data, update_priority=update_priority)
        self.sampler.note(places, data)
        return places

    def empty(self, empty_write_count: bool = True) -> None:
        """Forget all transitions and frames."""
        super().empty(empty_write_count)
        self.frames.empty()


class _KeptSampler(RandomSampler):
    """Draws uniformly among the transitions whose frames are kept.

    Args:
        frames: which.
        capacity: transitions.
    """

    def __init__(self, frames: FrameStore, capacity: int) -> None:
        self._frames, self._oldest = frames, torch.zeros(capacity, dtype=torch.int64)

    def note(self, places: Tensor, data: TensorDictBase) -> None:
        """Remember the oldest frame of each of some transitions."""
        self._oldest[places.cpu()] = torch.cat([data.get(key) for key in STACKS], -1).amin(-1).cpu()

    def kept(self, length: int) -> Tensor:
        """The places of those that may be drawn, of the first `length`."""
        return (self._oldest[:length] >= self._frames.oldest).nonzero().squeeze(-1)

    def sample(self, storage: Storage, batch_size: int) -> tuple[Tensor, dict[str, Any]]:
        """Draw places `[B]`."""
        places = torch.empty(batch_size, dtype=torch.int64)
        gone = torch.ones(batch_size, dtype=torch.bool)
        for _ in range(_TRIES):
            places[gone] = self._draw(len(storage), int(gone.sum()))
            gone = self._oldest[places] < self._frames.oldest
            if not gone.any():
                break
        else:
            kept = self.kept(len(storage))
            places[gone] = kept[self._draw(len(kept), int(gone.sum()))]
        return places.to(storage.device), {}

    def _draw(self, below: int, count: int) -> Tensor:
        if not below:
            raise ValueError("the buffer is empty; there is nothing to draw")
        return torch.randint(below, (count,), generator=self._rng)


class _Stack(Transform):
    """Puts the pixels in place of the numbers of a minibatch."""

    def __init__(self, frames: FrameStore) -> None:
        super().__init__(in_keys=list(STACKS), out_keys=list(STACKS))
        self._frames = frames

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """See the class."""
        numbers = torch.stack([tensordict.get(key) for key in STACKS])
        for key, stacks in zip(STACKS, self._frames.stacks(numbers), strict=True):
            tensordict.set(key, stacks)
        return tensordict


class FrameReplayState(ReplayState):
    """A `FrameReplay` as a component of checkpoints, but for the pixels: those are in `buffer.frames.pieces()`.

    Args:
        buffer: whose.
        kinds: what a transition consists of, in pixels.
    """

    def __init__(self, buffer: FrameReplay, kinds: Mapping[Any, Kind] | None = None) -> None:
        super().__init__(buffer, None if kinds is None else numbered(kinds, buffer.frames.shape))
        self.buffer: FrameReplay = buffer

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint; the tensors are views of the buffer's own."""
        return {**super().state_dict(), "frames": self.buffer.frames.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`; the pieces then bring the frames.

        Raises:
            ValueError: it is one of another buffer, or names frames that there are not.
        """
        if "frames" not in state:
            raise ValueError(f"the state has {sorted(state)}, expected frames as well")
        super().load_state_dict({name: part for name, part in state.items() if name != "frames"})
        frames = self.buffer.frames
        frames.load_state_dict(state["frames"])
        if not len(self.buffer):
            return
        held = self.buffer.storage[:]
        for key in STACKS:
            numbers = held.get(key)
            if not ((numbers >= 0) & (numbers < frames.written)).all():
                raise ValueError(f"held names frames in {key} that were not kept, of {frames.written}")
        if not len(self.buffer.sampler.kept(len(self.buffer))):
            raise ValueError("held has no transition whose frames are kept")


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
) -> FrameReplay:
    """A `FrameReplay` for an environment's observations.

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
    frames = frames_for(buffer_size, shape[0], num_envs)
    kinds = numbered(transition_kinds(env, keys), shape).values()
    transition = sum(kind.shape.numel() * kind.dtype.itemsize for kind in kinds)
    size = buffer_size * transition + (0 if on_disk else frames * shape[1:].numel())
    way_out = "take a smaller --buffer-size" + ("" if on_disk else " or --replay-storage frames-on-disk")
    check_memory(f"buffer_size is {buffer_size}, which takes", size, device, way_out)
    try:
        return FrameReplay(
            buffer_size,
            shape,
            num_frames=frames,
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


def replay_parts(buffer: ReplayBuffer, kinds: Mapping[Any, Kind]) -> dict[str, Any]:
    """A replay buffer as components of checkpoints, by name.

    Args:
        buffer: plain, or of frames.
        kinds: what a transition consists of, in pixels if it has any.
    """
    if isinstance(buffer, FrameReplay):
        return {"replay": FrameReplayState(buffer, kinds), **buffer.frames.pieces()}
    return {"replay": ReplayState(buffer, kinds)}


def check_checkpoints(state: Mapping[str, Any], folder: Path, total_frames: int, every: int | None) -> None:
    """See to it, before a run begins, that there is room for the frames in its checkpoints.

    Args:
        state: what a checkpoint holds.
        folder: of the run.
        total_frames: of the run.
        every: frames from one checkpoint to the next.

    Raises:
        ConfigError: there is no room for one checkpoint. For the three that there are for a while, the two newest and
            the next, it is a warning.
    """
    replay = state.get("replay")
    if not isinstance(replay, FrameReplayState):
        return
    frames = replay.buffer.frames
    kept = min(frames.capacity, total_frames)
    way_out = "take a smaller --buffer-size, or another disk in --run-dir"
    check_disk("the frames in a checkpoint take", kept * frames.frame_bytes, folder, way_out)
    if every is None or every >= total_frames:
        return
    # what two checkpoints do not share was overwritten from one to the other
    most = kept + 2 * min(kept, every)
    try:
        check_disk("the frames in checkpoints take up to", most * frames.frame_bytes, folder, way_out)
    except ConfigError as error:
        _LOG.warning("rlpipe: %s, or write one checkpoint alone, at the end: --checkpoint-every none", error)


def frames_for(capacity: int, stack: int, num_envs: int = 1) -> int:
    """How many frames to keep for so many transitions: one each, a sixteenth more, and a stack an environment."""
    return capacity + capacity // 16 + (num_envs + 1) * (stack + 1)


def numbered(kinds: Mapping[NestedKey, Kind], shape: Sequence[int]) -> dict[NestedKey, Kind]:
    """What a transition consists of if its observations are numbers."""
    numbers = Kind(torch.Size(shape[:1]), torch.int64)
    return {key: numbers if key in STACKS else kind for key, kind in kinds.items()}
