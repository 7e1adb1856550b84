"""Replay buffers as components of checkpoints."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from tensordict.utils import NestedKey, unravel_key
from torch import Tensor, nn
from torchrl.data import Categorical, MultiCategorical, ReplayBuffer, TensorDictReplayBuffer, TensorSpec
from torchrl.data.replay_buffers import PrioritizedSampler as StockPrioritizedSampler
from torchrl.data.replay_buffers.storages import TensorStorage
from torchrl.envs import EnvBase

from rlpipe.errors import ConfigError
from rlpipe.modules.choices import nvec_of
from rlpipe.modules.recurrent import carried_specs
from rlpipe.pipelines.checkpoints.state_checks import Kind, check_like, check_rows
from rlpipe.pipelines.devices import REPLAY, check_disk, device_of, gpu_memory_for
from rlpipe.pipelines.replay.image_buffer import STACKS, ImageReplay, numbered
from rlpipe.pipelines.replay.prioritized import PrioritizedSampler

_LOG = logging.getLogger("rlpipe")


class ReplayState:
    """The transitions that a replay buffer holds, where it writes next, and the priorities if it has them.

    The buffer's random generator is not in it: it may be one of the run's `Seeds`, or else the pipeline saves it.

    Args:
        buffer: with a tensor storage and a round-robin writer; draws uniformly or by rlpipe's `PrioritizedSampler`.
        kinds: of a transition's entries, to refuse a state of others; by default any are accepted.

    Raises:
        ValueError: it draws by TorchRL's `PrioritizedSampler`, or its storage is not of tensors.
    """

    def __init__(self, buffer: ReplayBuffer, kinds: Mapping[Any, Kind] | None = None) -> None:
        if isinstance(buffer.sampler, StockPrioritizedSampler):
            raise ValueError("no checkpoint holds the priorities of TorchRL's sampler; use rlpipe's PrioritizedSampler")
        if not isinstance(buffer.storage, TensorStorage):
            kind = type(buffer.storage).__name__
            raise ValueError(f"no checkpoint holds a {kind}; use a LazyTensorStorage or a LazyMemmapStorage")
        self.buffer, self._kinds = buffer, kinds

    def saves(self) -> list[Any]:
        """The objects that it saves."""
        return [self.buffer, self.buffer.sampler]

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint; the tensors are views of the buffer's own."""
        held = self.buffer.storage[:] if len(self.buffer) else None
        if held is not None and isinstance(self.buffer, TensorDictReplayBuffer):
            # their places, which the buffer adds itself
            held = held.exclude("index")
        state = {"held": None if held is None else held.to_dict(), "writer": self.buffer.writer.state_dict()}
        return {**state, **self._priorities()}

    def _priorities(self) -> dict[str, Any]:
        sampler = self.buffer.sampler
        return {"priorities": sampler.state_dict()} if isinstance(sampler, PrioritizedSampler) else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`; one that does not fit the buffer is a `ValueError`."""
        self.buffer.empty()
        own = {"held", "writer", *self._priorities()}
        if set(state) != own:
            raise ValueError(f"the state has {sorted(state)}, expected {sorted(own)}")
        if state["held"] is None:
            return
        if self._kinds is not None:
            check_rows(state["held"], self._kinds, "held")
        check_like(self.buffer.writer.state_dict(), state["writer"], "writer")
        held = TensorDict(state["held"], device=device_of(self.buffer.storage)).auto_batch_size_(1)
        limit = self.buffer.storage.max_size
        if not 0 < len(held) <= limit or not 0 <= state["writer"]["_cursor"] < limit:
            raise ValueError(f"{len(held)} transitions, written next at {state['writer']['_cursor']}, of {limit}")
        with gpu_memory_for(*REPLAY):
            self.buffer.extend(held)
        self.buffer.writer.load_state_dict(state["writer"])
        if "priorities" in state:
            self.buffer.sampler.load_state_dict(state["priorities"])


def transition_kinds(env: EnvBase, keys: Iterable[NestedKey], policy: nn.Module | None = None) -> dict[NestedKey, Kind]:
    """The kinds of the entries `keys` of one environment's transition; `next` has the same names.

    A key of several entries, such as `action` of a Dict action, stands for all of them. What a recurrent `policy`
    carries is among the entries.
    """
    specs: dict[NestedKey, TensorSpec] = {"reward": env.reward_spec, "discount": env.reward_spec}
    for all_of in (env.observation_spec, env.done_spec, env.full_action_spec):
        specs.update(all_of.items(True, True))
    dims = len(env.batch_size)
    for key, spec in carried_specs(policy).items():
        specs[key] = spec.expand(*env.batch_size, *spec.shape)
    kinds: dict[NestedKey, Kind] = {}
    for key in keys:
        prefix, own = (("next",), key[1:]) if isinstance(key, tuple) and key[0] == "next" else ((), key)
        for name, spec in _under(specs, own).items():
            kinds[unravel_key((*prefix, name))] = Kind(spec.shape[dims:], spec.dtype, _limit(spec, dims))
    return kinds


def _under(specs: Mapping[NestedKey, TensorSpec], key: NestedKey) -> dict[NestedKey, TensorSpec]:
    """The spec of an entry, or those of the entries under it."""
    path = _path(key)
    found = {name: spec for name, spec in specs.items() if _path(name)[: len(path)] == path}
    if not found:
        raise KeyError(f"the environment has no entry {key!r}; it has {list(specs)}")
    return found


def _path(key: NestedKey) -> tuple[str, ...]:
    return key if isinstance(key, tuple) else (key,)


def _limit(spec: TensorSpec, dims: int) -> int | Tensor | None:
    """What the numbers of a Discrete, MultiDiscrete or MultiBinary entry are less than."""
    if type(spec) is MultiCategorical:
        return nvec_of(spec, dims)
    is_discrete = isinstance(spec, Categorical) and spec.dtype is not torch.bool
    return int(spec.space.n) if is_discrete else None


def transition_bytes(env: EnvBase, keys: Iterable[NestedKey]) -> int:
    """Bytes of the entries `keys` of one environment's transition."""
    kinds = transition_kinds(env, keys)
    return sum(kind.shape.numel() * kind.dtype.itemsize for kind in kinds.values())


class ImageReplayState(ReplayState):
    """An `ImageReplay` as a component of checkpoints, without the pixels: those are in `buffer.images.pieces()`.

    `kinds` are of transitions with observations of pixels.
    """

    def __init__(self, buffer: ImageReplay, kinds: Mapping[Any, Kind] | None = None) -> None:
        super().__init__(buffer, None if kinds is None else numbered(kinds, buffer.images.shape))
        self.buffer: ImageReplay = buffer

    def saves(self) -> list[Any]:
        """The objects that it saves, with the pieces."""
        return [*super().saves(), self.buffer.images]

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint; the tensors are views of the buffer's own."""
        return {**super().state_dict(), "frames": self.buffer.images.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`, before the pieces are loaded; one of another buffer is a `ValueError`."""
        if "frames" not in state:
            raise ValueError(f"the state has {sorted(state)}, expected frames as well")
        super().load_state_dict({name: part for name, part in state.items() if name != "frames"})
        images = self.buffer.images
        images.load_state_dict(state["frames"])
        if not len(self.buffer):
            return
        held = self.buffer.storage[:]
        for key in STACKS:
            numbers = held.get(key)
            if not ((numbers >= 0) & (numbers < images.written)).all():
                raise ValueError(f"held names images in {key} that were not kept, of {images.written}")
        if not len(self.buffer.sampler.kept(len(self.buffer))):
            raise ValueError("held has no transition whose images are kept")


def replay_parts(buffer: ReplayBuffer, kinds: Mapping[Any, Kind] | None = None) -> dict[str, Any]:
    """A replay buffer as components of checkpoints, by name; `kinds` are of transitions with observations of pixels."""
    if isinstance(buffer, ImageReplay):
        return {"replay": ImageReplayState(buffer, kinds), **buffer.images.pieces()}
    return {"replay": ReplayState(buffer, kinds)}


class NotSaved:
    """Stands for a replay buffer that no checkpoint can hold; to save it says why."""

    def __init__(self, buffer: ReplayBuffer, reason: str) -> None:
        self.buffer, self.reason = buffer, reason

    def state_dict(self) -> dict[str, Any]:
        raise TypeError(self.reason)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        raise TypeError(self.reason)

    def saves(self) -> list[Any]:
        """The buffer: a part of the user's that saves it stands in its place."""
        return [self.buffer]


def saved_parts(buffer: ReplayBuffer) -> dict[str, Any]:
    """As `replay_parts`, for any buffer: one that cannot be saved is refused when it is."""
    try:
        return replay_parts(buffer)
    except ValueError as error:
        return {"replay": NotSaved(buffer, str(error))}


def check_checkpoints(state: Mapping[str, Any], folder: Path, total_frames: int, every: int | None) -> None:
    """Check, before a run begins, that there is room for the images in its checkpoints; `every` is in frames.

    Raises:
        ConfigError: there is no room for one checkpoint. If there is no room for three, the two newest and the next
            one, there is a warning.
    """
    replay = state.get("replay")
    if not isinstance(replay, ImageReplayState):
        return
    images = replay.buffer.images
    kept = min(images.capacity, total_frames)
    way_out = "take a smaller --buffer-size, or another disk in --run-dir"
    check_disk("the images in a checkpoint take", kept * images.image_bytes, folder, way_out)
    if every is None or every >= total_frames:
        return
    # two checkpoints share what was not overwritten in between
    most = kept + 2 * min(kept, every)
    try:
        check_disk("the images in checkpoints take up to", most * images.image_bytes, folder, way_out)
    except ConfigError as error:
        _LOG.warning("rlpipe: %s, or write one checkpoint alone, at the end: --checkpoint-every none", error)
