"""Copies of transforms for an evaluation: they use what training has found out, and learn nothing."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn
from torchrl.envs import (
    CatFrames,
    EnvBase,
    FrameSkipTransform,
    InitTracker,
    NoopResetEnv,
    RandomTruncationTransform,
    TensorDictPrimer,
    TimeMaxPool,
    TrajCounter,
    Transform,
    TransformedEnv,
    VecNorm,
    VecNormV2,
)

from rlpipe.errors import ConfigError
from rlpipe.pipelines.pipeline import STATISTICS, each_of, is_custom, is_lazy

Seat = Callable[[int], None]
"""Gives environments the rows of statistics from one on, as if they were those of a larger number from there on."""


def hold(env: TransformedEnv, transforms: Iterable[Transform], policy: nn.Module | None = None) -> list[Seat]:
    """Append copies of transforms to an environment for evaluation.

    Statistics are those of the originals and stay as they are. Where there is a row of them for each environment, `[m,
    ...]`, environment `i` takes row `i` modulo `m`. What belongs to an episode, such as stacked frames, starts empty.
    A `RandomTruncationTransform` is left out, because an evaluation is of whole episodes. A recurrent policy gets the
    transforms that it needs, where they are missing.

    A custom transform that learns needs a `freeze()` that stops it, as `VecNorm` has. (TorchRL's environments put their
    transforms into evaluation mode in training too.)

    Args:
        env: a new environment of any size.
        transforms: of the environment that the policy was trained in; they are left as they are.
        policy: that is evaluated.

    Returns:
        For each transform with a row for each environment, what gives them other rows.

    Raises:
        ConfigError: a running normalisation has no statistics, or keeps them elsewhere; or a transform steps
            environments itself.
    """
    check_steps(transforms)
    seats: list[Seat] = []
    for transform in each_of(transforms):
        if isinstance(transform, RandomTruncationTransform):
            continue
        held = _copied(transform)
        seats += _settle(held, env)
        env.append_transform(held)
    if policy is not None:
        _append_state(env, policy)
    env.specs  # noqa: B018 - built on first use; a transform that does not fit must say so now
    return seats


def check_steps(transforms: Iterable[Transform]) -> None:
    """Refuse transforms that step environments themselves.

    Raises:
        ConfigError: there is one.
    """
    for each in each_of(transforms):
        if isinstance(each, NoopResetEnv) or (isinstance(each, FrameSkipTransform) and each.frame_skip > 1):
            raise ConfigError(
                f"{type(each).__name__} steps the environments itself, past the end of an episode, because they are "
                "reset as soon as it ends; use a wrapper of the environment instead, such as "
                "gymnasium.wrappers.MaxAndSkipObservation"
            )


def size_for(transforms: Iterable[Transform], wanted: int) -> int:
    """How many environments to evaluate in: as many as wanted, or as in training.

    The latter for a custom transform with a tensor that may have a row for each of training's environments.
    """
    for transform in each_of(transforms):
        container = transform.container if is_custom(transform) else None
        rows = int(container.batch_size[0]) if container is not None and container.batch_size else 1
        if rows > 1 and any(rows in tensor.shape for tensor in _tensors(transform)):
            return rows
    return wanted


def per_environment(loc: Tensor, scale: Tensor, dims: int) -> bool:
    """Whether statistics have a row for each environment, where one environment's entry has so many dimensions."""
    return any(not is_lazy(each) and each.ndim > dims and each.shape[0] > 1 for each in (loc, scale))


def _copied(transform: Transform) -> Transform:
    """A copy that shares no tensor with the original, nor anything else that can be copied."""
    # TorchRL's own shares all there is
    copied = transform.clone()
    memo: dict[int, Any] = {}
    for name, value in list(vars(copied).items()):
        try:
            vars(copied)[name] = copy.deepcopy(value, memo)
        except (TypeError, RuntimeError):  # a lock, say
            continue
    return copied


def _settle(held: Transform, env: TransformedEnv) -> list[Seat]:
    """Hold a copy's statistics still, and bring what it keeps for each environment to the environment's size."""
    freeze = getattr(held, "freeze", None)
    if callable(freeze):
        freeze()
    seats: list[Seat] = []
    if isinstance(held, (VecNorm, VecNormV2)):
        seats = _settle_running(held, env)
    elif isinstance(held, (CatFrames, TimeMaxPool)):
        _empty_frames(held)
    elif isinstance(held, TensorDictPrimer) and held.primers.ndim:
        held.primers = held.primers[_rows(int(held.primers.shape[0]), env)]
    elif isinstance(held, TrajCounter):
        held._make_shared_value()
    elif isinstance(held, STATISTICS):
        dims = [found for key in [*held.in_keys, *held.in_keys_inv] if (found := _dims(env, key)) is not None]
        for name, value in held.named_buffers():
            if dims and per_environment(value, value, max(dims)):
                seats.append(functools.partial(_seat_buffer, held, name, value, env))
    for seat in seats:
        seat(0)
    return seats


def _seat_buffer(held: Transform, name: str, rows: Tensor, env: TransformedEnv, first: int) -> None:
    setattr(held, name, rows[_rows(len(rows), env, first)])


def _settle_running(held: VecNorm | VecNormV2, env: TransformedEnv) -> list[Seat]:
    if isinstance(held, VecNorm):
        known = held._td is not None
    elif not held.stateful:
        raise ConfigError(
            "VecNormV2(stateful=False) keeps its statistics in the batches, where an evaluation finds none; use "
            "stateful=True"
        )
    else:
        known = held._loc is not None and any(bool((each > 0).any()) for each in held._count.values(True, True))
    if not known:
        raise ConfigError(
            f"{type(held).__name__} has no statistics yet; give the evaluation the one of the environment that was "
            "trained in"
        )
    if not isinstance(held, VecNormV2):
        return []
    seats: list[Seat] = []
    for name in ("_loc", "_var"):
        statistics: TensorDictBase = getattr(held, name)
        entries = [(key, value, _dims(env, key)) for key, value in statistics.items(True, True)]
        rows = [key for key, value, dims in entries if dims is not None and per_environment(value, value, dims)]
        seats.append(functools.partial(_seat_entries, held, name, statistics, rows, env))
    return seats


def _seat_entries(
    held: Transform, name: str, statistics: TensorDictBase, keys: list[Any], env: TransformedEnv, first: int
) -> None:
    seated = TensorDict(dict(statistics.items(True, True)))
    for key in keys:
        seated.set(key, statistics[key][_rows(len(statistics[key]), env, first)])
    setattr(held, name, seated)


def _empty_frames(held: CatFrames | TimeMaxPool) -> None:
    for name in [*vars(held), *held._buffers]:
        if name.startswith(("_cat_buffers_", "_maxpool_buffer_")):
            setattr(held, name, nn.UninitializedBuffer())


def _rows(number: int, env: TransformedEnv, first: int = 0) -> Tensor:
    return torch.arange(first, first + env.batch_size[0]) % number


def _dims(env: EnvBase, key: Any) -> int | None:
    """Dimensions of one environment's entry, if there is such an entry."""
    for spec in (env.full_observation_spec, env.full_reward_spec, env.full_action_spec):
        if key in spec.keys(True, True):
            return len(spec[key].shape) - len(env.batch_size)
    return None


def _tensors(transform: Transform) -> list[Tensor]:
    found = [*transform.buffers(), *transform.parameters(), *vars(transform).values()]
    found += [leaf for value in found if isinstance(value, TensorDictBase) for leaf in value.values(True, True)]
    return [each for each in found if isinstance(each, Tensor) and not is_lazy(each)]


def _append_state(env: TransformedEnv, policy: nn.Module) -> None:
    """What a recurrent policy reads and no environment has: its state, and where an episode begins."""
    makers: list[Any] = [module for module in policy.modules() if hasattr(module, "make_tensordict_primer")]
    if makers and "is_init" in getattr(policy, "in_keys", ()) and _dims(env, "is_init") is None:
        env.append_transform(InitTracker())
    for maker in makers:
        # a fresh one, because a primer keeps the size of its first environment
        primer: TensorDictPrimer = maker.make_tensordict_primer()
        if any(_dims(env, key) is None for key in primer.primers.keys(True, True)):
            env.append_transform(primer)
