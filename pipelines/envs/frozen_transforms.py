"""Frozen copies of transforms for an evaluation: they use the statistics of training, and do not change them."""

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
from rlpipe.modules.recurrent import recurrent_parts
from rlpipe.pipelines.envs.normalization.moments import moments_of
from rlpipe.pipelines.envs.normalization.running import Running
from rlpipe.pipelines.pipeline import STATISTICS, each_of, is_custom, is_lazy

SelectRows = Callable[[int], None]
"""Called with an index, gives the environments the rows of statistics from that one on."""


def append_frozen(
    env: TransformedEnv, transforms: Iterable[Transform], policy: nn.Module | None = None
) -> list[SelectRows]:
    """Append frozen copies of transforms to an environment for evaluation.

    Statistics are those of the originals and do not change. If they have a row for each environment, `[m, ...]`,
    environment `i` uses row `i` modulo `m`. What belongs to an episode, such as stacked frames, starts empty. A
    `RandomTruncationTransform` is left out, because an evaluation plays whole episodes. Transforms that a recurrent
    policy needs are added if they are missing.

    A custom transform that learns needs a `freeze()` that stops it, as `VecNorm` has. (Evaluation mode does not tell,
    because TorchRL's environments put their transforms into it in training too.)

    Args:
        env: a new environment of any size.
        transforms: of the environment that the policy was trained in; they are not changed.
        policy: the policy to evaluate.

    Returns:
        For each transform with a row for each environment, a function that selects other rows.

    Raises:
        ConfigError: a running normalisation has no statistics, or keeps them in batches; or a transform steps
            environments itself.
    """
    check_steps(transforms)
    selects: list[SelectRows] = []
    for transform in each_of(transforms):
        if isinstance(transform, RandomTruncationTransform):
            continue
        frozen = _copied(transform)
        selects += _freeze(frozen, env)
        env.append_transform(frozen)
    if policy is not None:
        append_state(env, policy)
    env.specs  # noqa: B018 - built on first use; a transform that does not fit must fail now
    return selects


def check_steps(transforms: Iterable[Transform]) -> None:
    """Refuse transforms that step environments themselves, by a `ConfigError`."""
    for each in each_of(transforms):
        if isinstance(each, NoopResetEnv) or (isinstance(each, FrameSkipTransform) and each.frame_skip > 1):
            raise ConfigError(
                f"{type(each).__name__} steps the environments itself, past the end of an episode, because they are "
                "reset as soon as it ends; use a wrapper of the environment instead, such as "
                "gymnasium.wrappers.MaxAndSkipObservation"
            )


def size_for(transforms: Iterable[Transform], wanted: int) -> int:
    """How many environments to evaluate in: as many as wanted; or as many as in training.

    The latter for a custom transform with a tensor that may have a row for each of the training environments.
    """
    for transform in each_of(transforms):
        container = transform.container if is_custom(transform) else None
        rows = int(container.batch_size[0]) if container is not None and container.batch_size else 1
        if rows > 1 and any(rows in tensor.shape for tensor in _tensors(transform)):
            return rows
    return wanted


def per_environment(loc: Tensor, scale: Tensor, dims: int) -> bool:
    """Whether statistics have a row for each environment, if one environment's entry has `dims` dimensions."""
    return any(not is_lazy(each) and each.ndim > dims and each.shape[0] > 1 for each in (loc, scale))


def _copied(transform: Transform) -> Transform:
    """A copy that shares no tensor with the original, nor anything else that can be copied."""
    # TorchRL's `clone` shares everything
    copied = transform.clone()
    memo: dict[int, Any] = {}
    for name, value in list(vars(copied).items()):
        try:
            vars(copied)[name] = copy.deepcopy(value, memo)
        except (TypeError, RuntimeError):  # such as a lock
            continue
    return copied


def _freeze(frozen: Transform, env: TransformedEnv) -> list[SelectRows]:
    """Stop a copy's statistics from changing, and fit what it has for each environment to the size of `env`."""
    if isinstance(frozen, Running) and not all([each.now.number for each in moments_of(frozen)] or [0]):
        raise _no_statistics(frozen)
    freeze = getattr(frozen, "freeze", None)
    if callable(freeze):
        freeze()
    selects: list[SelectRows] = []
    if isinstance(frozen, (VecNorm, VecNormV2)):
        selects = _freeze_running(frozen, env)
    elif isinstance(frozen, (CatFrames, TimeMaxPool)):
        _empty_frames(frozen)
    elif isinstance(frozen, TensorDictPrimer) and frozen.primers.ndim:
        frozen.primers = frozen.primers[_rows(int(frozen.primers.shape[0]), env)]
    elif isinstance(frozen, TrajCounter):
        frozen._make_shared_value()
    elif isinstance(frozen, STATISTICS):
        dims = [found for key in [*frozen.in_keys, *frozen.in_keys_inv] if (found := _dims(env, key)) is not None]
        for name, value in frozen.named_buffers():
            if dims and per_environment(value, value, max(dims)):
                selects.append(functools.partial(_select_buffer, frozen, name, value, env))
    for select in selects:
        select(0)
    return selects


def _select_buffer(frozen: Transform, name: str, rows: Tensor, env: TransformedEnv, first: int) -> None:
    setattr(frozen, name, rows[_rows(len(rows), env, first)])


def _freeze_running(frozen: VecNorm | VecNormV2, env: TransformedEnv) -> list[SelectRows]:
    if isinstance(frozen, VecNorm):
        known = frozen._td is not None
    elif not frozen.stateful:
        raise ConfigError(
            "VecNormV2(stateful=False) keeps its statistics in the batches, where an evaluation finds none; use "
            "stateful=True"
        )
    else:
        known = frozen._loc is not None and any(bool((each > 0).any()) for each in frozen._count.values(True, True))
    if not known:
        raise _no_statistics(frozen)
    if not isinstance(frozen, VecNormV2):
        return []
    selects: list[SelectRows] = []
    for name in ("_loc", "_var"):
        statistics: TensorDictBase = getattr(frozen, name)
        entries = [(key, value, _dims(env, key)) for key, value in statistics.items(True, True)]
        rows = [key for key, value, dims in entries if dims is not None and per_environment(value, value, dims)]
        selects.append(functools.partial(_select_entries, frozen, name, statistics, rows, env))
    return selects


def _no_statistics(transform: Transform) -> ConfigError:
    return ConfigError(
        f"{type(transform).__name__} has no statistics yet; give the evaluation the one of the environment that was "
        "trained in"
    )


def _select_entries(
    frozen: Transform, name: str, statistics: TensorDictBase, keys: list[Any], env: TransformedEnv, first: int
) -> None:
    selected = TensorDict(dict(statistics.items(True, True)))
    for key in keys:
        selected.set(key, statistics[key][_rows(len(statistics[key]), env, first)])
    setattr(frozen, name, selected)


def _empty_frames(frozen: CatFrames | TimeMaxPool) -> None:
    for name in [*vars(frozen), *frozen._buffers]:
        if name.startswith(("_cat_buffers_", "_maxpool_buffer_")):
            setattr(frozen, name, nn.UninitializedBuffer())


def _rows(number: int, env: TransformedEnv, first: int = 0) -> Tensor:
    return torch.arange(first, first + env.batch_size[0]) % number


def _dims(env: EnvBase, key: Any) -> int | None:
    """Dimensions of one environment's entry; `None` if there is no such entry."""
    for spec in (env.full_observation_spec, env.full_reward_spec, env.full_action_spec):
        if key in spec.keys(True, True):
            return len(spec[key].shape) - len(env.batch_size)
    return None


def _tensors(transform: Transform) -> list[Tensor]:
    found = [*transform.buffers(), *transform.parameters(), *vars(transform).values()]
    found += [leaf for value in found if isinstance(value, TensorDictBase) for leaf in value.values(True, True)]
    return [each for each in found if isinstance(each, Tensor) and not is_lazy(each)]


def append_state(env: TransformedEnv, policy: nn.Module) -> None:
    """Add what a recurrent policy reads and the environment does not have: its state, and where episodes begin."""
    makers = recurrent_parts(policy)
    if makers and "is_init" in getattr(policy, "in_keys", ()) and _dims(env, "is_init") is None:
        env.append_transform(InitTracker())
    for maker in makers:
        # a new primer, because one keeps the size of its first environment
        primer: TensorDictPrimer = maker.make_tensordict_primer()
        if any(_dims(env, key) is None for key in primer.primers.keys(True, True)):
            env.append_transform(primer)
