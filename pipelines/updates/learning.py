"""How a collected batch becomes updates: epochs of minibatches, replay, or the whole batch once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.utils import NestedKey
from torchrl.data import ReplayBuffer
from torchrl.data.replay_buffers import PrioritizedSampler as StockPrioritizedSampler
from torchrl.data.replay_buffers import SamplerWithoutReplacement

from rlpipe.pipelines.checkpoints.parts import parts_of, together
from rlpipe.pipelines.devices import REPLAY, gpu_memory_for
from rlpipe.pipelines.pipeline import Update
from rlpipe.pipelines.replay.prioritized import PrioritizedSampler
from rlpipe.pipelines.replay.state import saved_parts
from rlpipe.pipelines.updates.combining import PRIORITY, mean_of, reader_of, reads, taken, warn_of_single_steps

_BATCH = "--num-envs or --rollout-steps"
Keys = Sequence[NestedKey]


def on_policy(
    advantage: Update,
    buffer: ReplayBuffer,
    update: Update,
    *,
    epochs: int,
    keys: Keys | None = None,
    sequences: bool = False,
) -> OnPolicy:
    """Learn from a batch: compute its advantages, run epochs of minibatches, then forget it.

    When an update is skipped, see `gradient_step`, the rest of the epochs is left out, as with Stable-Baselines3's
    `target_kl`. If the update has a `skip_if`, `epochs` in the result tells how many passes were made, in parts of one.

    Args:
        advantage: writes `advantage` and `value_target` into a batch `[num_envs, T]`.
        buffer: of the batch's size, with a `SamplerWithoutReplacement`: iterating it is one epoch.
        update: one gradient step.
        epochs: passes over the batch.
        keys: what the update reads; the rest is not copied. By default its `in_keys`, and the advantage's `out_keys` if
            those name none of them, as with TorchRL's losses.
        sequences: draw environments, and not steps: minibatches are `[buffer.batch_size, T]`, with all steps of an
            environment in order, as a policy with a `Memory` needs; the buffer's size is then `num_envs`.

    Returns:
        What learns from a batch; the arguments are its attributes, and may be changed at any time.

    Raises:
        ValueError: the buffer has another sampler, or the update does not say what it reads; in a later call, the batch
            lacks a key, or does not fit into the buffer.
    """
    return OnPolicy(advantage, buffer, update, epochs, keys, sequences)


def once(update: Update, *, keys: Keys | None = None, advantage: Update | None = None, sequences: bool = False) -> Once:
    """Learn from a whole batch in one gradient step, then forget it.

    Args:
        update: one gradient step.
        keys: what it reads, by default as for `on_policy`.
        advantage: applied to the batch `[num_envs, T]` before.
        sequences: leave the batch `[num_envs, T]`, as a policy with a `Memory` needs, and do not flatten it.

    Returns:
        What learns from a batch; the arguments are its attributes.

    Raises:
        ValueError: the update does not say what it reads; in a later call, the batch lacks a key.
    """
    return Once(update, keys, advantage, sequences)


def off_policy(
    buffer: ReplayBuffer, update: Update, *, updates: int, warmup: int, keys: Keys | None = None
) -> OffPolicy:
    """Learn from replay: store each batch, then draw minibatches from everything stored.

    With a `PrioritizedSampler`, minibatches hold importance weights, `priority_weight` `[B]`, and the `priority` `[B]`
    that the update returns (as with `DQNLoss(prioritized=True)`) becomes the samples' priority.

    Args:
        buffer: draws minibatches of its own `batch_size`.
        update: one gradient step.
        updates: gradient steps a collected batch.
        warmup: frames to store before the first update.
        keys: what the update reads; the rest is not stored. By default its `in_keys`.

    Returns:
        What learns from a batch; the arguments are its attributes, and `updates` may be changed at any time.

    Raises:
        ValueError: a number out of range, a buffer smaller than the warm-up, a sampler that does not fit, or the update
            does not say what it reads; in a later call, the batch lacks a key.
    """
    return OffPolicy(buffer, update, updates, warmup, keys)


class _FromBatch:
    """What learns from one batch, and keeps nothing of it."""

    advantage: Any
    update: Update
    keys: Keys | None
    sequences: bool

    @property
    def in_keys(self) -> list[NestedKey]:
        """The keys that are kept of a batch, with its advantages."""
        return _keys_for(self.keys, self.update, self.advantage)

    @property
    def held(self) -> dict[str, Any]:
        """What the update and the advantage hold; a buffer is emptied before it is used."""
        return together(parts_of(self.update), parts_of(self.advantage, "advantage"))

    def _items(self, batch: TensorDictBase) -> TensorDictBase:
        """What is learned from: the steps of a batch, or its sequences."""
        kept = select(batch, self.in_keys, self.update)
        return kept if self.sequences else kept.reshape(-1)


@dataclass(eq=False)
class OnPolicy(_FromBatch):
    """What `on_policy` makes."""

    advantage: Update
    buffer: ReplayBuffer
    update: Update
    epochs: int
    keys: Keys | None
    sequences: bool

    def __post_init__(self) -> None:
        # iterating any other sampler never ends
        if not isinstance(self.buffer.sampler, SamplerWithoutReplacement):
            name = type(self.buffer.sampler).__name__
            raise ValueError(f"on_policy needs a buffer with a SamplerWithoutReplacement, this one has a {name}")
        _check_keys("on_policy", self.keys, self.update)
        warn_of_single_steps(self)

    def __call__(self, batch: TensorDictBase) -> TensorDictBase:
        items, what = (len(batch), "sequences") if self.sequences else (batch.numel(), "frames")
        _check_fits(self.buffer, items, what)
        with gpu_memory_for("the advantages of a batch", _BATCH):
            # even if the buffer has room: what it holds was collected by an older policy
            self.buffer.empty()
            self.buffer.extend(self._items(self.advantage(batch)))
        with gpu_memory_for("an update", "--minibatch-size"):
            scalars = self._updates()
        mean = mean_of(scalars)
        if getattr(self.update, "skip_if", None) is not None:
            whole = math.floor if self.buffer.sampler.drop_last else math.ceil
            passes = sum(map(_steps, scalars)) / max(1, whole(items / self.buffer.batch_size))
            mean.set("epochs", torch.tensor(passes))
        return mean

    def _updates(self) -> list[TensorDictBase]:
        """What the updates return, until one is skipped; it is the last."""
        scalars = []
        for _ in range(self.epochs):
            for minibatch in self.buffer:
                scalars.append(self.update(minibatch))
                if "updates" in scalars[-1].keys() and not _steps(scalars[-1]):  # noqa: SIM118 - no Mapping
                    return scalars
        return scalars


@dataclass(eq=False)
class Once(_FromBatch):
    """What `once` makes."""

    update: Update
    keys: Keys | None
    advantage: Update | None
    sequences: bool

    def __post_init__(self) -> None:
        _check_keys("once", self.keys, self.update)
        warn_of_single_steps(self)

    def __call__(self, batch: TensorDictBase) -> TensorDictBase:
        with gpu_memory_for("an update with a whole batch", _BATCH):
            batch = batch if self.advantage is None else self.advantage(batch)
            return mean_of([self.update(self._items(batch))])


@dataclass(eq=False)
class OffPolicy:
    """What `off_policy` makes."""

    buffer: ReplayBuffer
    update: Update
    updates: int
    warmup: int
    keys: Keys | None

    def __post_init__(self) -> None:
        capacity = getattr(self.buffer.storage, "max_size", math.inf)
        if self.updates < 1 or self.warmup < 0 or self.warmup > capacity:
            raise ValueError(
                f"updates is {self.updates} and warmup {self.warmup}; allowed are 1 or more, and 0 to {capacity}, what "
                "the buffer holds"
            )
        sampler = self.buffer.sampler
        if isinstance(sampler, PrioritizedSampler) and sampler.capacity < capacity:
            raise ValueError(f"the sampler is for {sampler.capacity} transitions, and the buffer has {capacity}")
        _check_keys("off_policy", self.keys, self.update)
        warn_of_single_steps(self)
        weight = _loss_key(self.update, "priority_weight")
        if weight in _keys_for(self.keys, self.update) and not self._prioritized:
            raise ValueError(
                f"the loss reads {weight!r}, which a buffer with a PrioritizedSampler gives; this one has a "
                f"{type(sampler).__name__}"
            )

    @property
    def _prioritized(self) -> bool:
        return isinstance(self.buffer.sampler, (PrioritizedSampler, StockPrioritizedSampler))

    def __call__(self, batch: TensorDictBase) -> TensorDictBase:
        _check_fits(self.buffer, batch.numel())
        with gpu_memory_for(*REPLAY):
            self.buffer.extend(select(batch, self.in_keys, self.update).reshape(-1))
        if len(self.buffer) < self.warmup:
            return mean_of([])
        with gpu_memory_for("an update", "--minibatch-size"):
            if self._prioritized:
                return mean_of([_update_by_priority(self.buffer, self.update) for _ in range(self.updates)])
            return mean_of([self.update(self.buffer.sample()) for _ in range(self.updates)])

    @property
    def in_keys(self) -> list[NestedKey]:
        """The keys that are stored."""
        weight = _loss_key(self.update, "priority_weight")
        return [key for key in _keys_for(self.keys, self.update) if key != weight]

    @property
    def held(self) -> dict[str, Any]:
        """What the update holds, and the replay buffer."""
        return together(parts_of(self.update), saved_parts(self.buffer))


def _update_by_priority(buffer: ReplayBuffer, update: Update) -> TensorDictBase:
    """One gradient step on a minibatch drawn by priority, which it updates; returns the other scalars."""
    minibatch, drawn = buffer.sample(return_info=True)
    scalars = update(minibatch.set(_loss_key(update, "priority_weight"), drawn["priority_weight"]))
    own = _loss_key(update, PRIORITY)
    # TorchRL's losses write theirs into the minibatch
    written = minibatch.get(own, minibatch.get("td_error", None))
    priority = scalars.pop(PRIORITY if PRIORITY in scalars else own, written)
    if priority is not None:
        buffer.update_priority(drawn["index"], priority)
    elif len(scalars.keys()):
        raise ValueError(
            "the buffer draws by priority, and the loss returns no 'priority': DQNLoss(prioritized=True) does, and so "
            "can a custom loss, [B] and detached"
        )
    return scalars


def _loss_key(update: Update, name: str) -> NestedKey:
    """The key that the update's loss has under this name, see its `set_keys`; by default the name."""
    key: NestedKey = getattr(getattr(getattr(update, "loss", None), "tensor_keys", None), name, name)
    return key


def _steps(scalars: TensorDictBase) -> int:
    return taken(dict(scalars.items()))


def _check_keys(name: str, keys: Keys | None, update: Update) -> None:
    """Refuse an update that does not say what it reads, unless the keys are given."""
    if keys is None and reads(update) is None:
        raise ValueError(
            f"{name} cannot tell what to keep of a batch, because {reader_of(update)} has no in_keys; name what it "
            "reads: keys=[...]"
        )


def _keys_for(keys: Keys | None, update: Update, advantage: Update | None = None) -> list[NestedKey]:
    """What to keep of a batch: `keys` if they are given, or else what the update reads."""
    if keys is not None:
        return list(keys)
    own, written = reads(update) or [], list(getattr(advantage, "out_keys", ()))
    # TorchRL's losses do not name what advantages write
    return own if set(own) & set(written) else list(dict.fromkeys([*own, *written]))


def select(batch: TensorDictBase, keys: Keys, reader: Update) -> TensorDictBase:
    """Some entries of a batch.

    Raises:
        KeyError: it lacks one; names it, and who reads it.
    """
    try:
        return batch.select(*keys)
    except KeyError:
        missing = next((key for key in keys if batch.get(key, None) is None), None)
        has = list(batch.keys(True, True))
        raise KeyError(
            f"{reader_of(reader, missing)} reads key {missing!r}, which the batch does not have; it has {has}"
        ) from None


def _check_fits(buffer: ReplayBuffer, items: int, what: str = "frames") -> None:
    capacity = getattr(buffer.storage, "max_size", math.inf)
    if items > capacity:
        raise ValueError(
            f"the buffer has room for {capacity} {what}, and a batch has {items}; make its storage that large"
        )
