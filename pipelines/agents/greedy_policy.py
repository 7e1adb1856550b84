"""A run's greedy policy as one function of raw observations, for use without rlpipe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from gymnasium.spaces import Box
from tensordict.nn import TensorDictSequential
from torch import Tensor, nn
from torchrl.data import Binary, Categorical, TensorSpec
from torchrl.envs import DoubleToFloat, ObservationNorm, Transform

from rlpipe.errors import ConfigError
from rlpipe.modules import DeterministicActor, Explorer, GaussianActor
from rlpipe.modules.base import TensorModule, tensor_modules
from rlpipe.modules.choices import nvec_of
from rlpipe.pipelines.agents.load import Trained
from rlpipe.pipelines.envs import BinObservation
from rlpipe.pipelines.envs.entries import Key, leaves_of, name_of
from rlpipe.pipelines.envs.frozen_transforms import per_environment
from rlpipe.pipelines.envs.make import make_env_of_any_size
from rlpipe.pipelines.envs.normalization.moments import RunningMoments
from rlpipe.pipelines.envs.normalization.running import RunningObservationNorm
from rlpipe.pipelines.envs.observations import MASK

_WIDEST, _MOST = 10.0, 255


class GreedyPolicy(nn.Module):
    """Maps raw observations to actions: `[B, *entry]` for each of `keys`, to `[B, *action]` for each of `action_keys`.

    Observations and actions are those of the Gymnasium environment: statistics and bins are applied within, Discrete
    and MultiDiscrete numbers start where their space does, and Box actions have its type and bounds. An action mask is
    the last entry, bool `[B, choices]`. The parts are shared with the run's policy.

    Raises:
        ConfigError: the policy or a transform of its observation cannot be exported.
    """

    def __init__(self, agent: Trained) -> None:
        super().__init__()
        modules = tensor_modules(agent.policy)
        if modules is None:
            raise ConfigError(f"a policy {_described(agent.policy)} cannot be exported")
        self.parts = nn.ModuleList(modules)
        with_raw = make_env_of_any_size(replace(agent.settings.env, num_envs=1, backend="auto"))
        try:
            base = with_raw.base_env
            read = {key for part in modules for key in part.in_keys if key in base.spaces}
            self.keys: list[Key] = [key for key in base.spaces if key in read]
            self.specs: dict[Key, TensorSpec] = {key: with_raw.observation_spec[key][0] for key in self.keys}
            self.starts = {key: start for key in self.keys if (start := _start(base.spaces[key])) is not None}
            actions = leaves_of(base.envs.single_action_space, "action")
            # in the order of the space, as the policy's parts are; TorchRL's `action_keys` are sorted
            self.action_keys: list[Key] = list(actions)
            self.casts = nn.ModuleList(_cast(actions[key].space) for key in self.action_keys)
        finally:
            with_raw.close()
        dims = {key: len(spec.shape) for key, spec in self.specs.items()}
        self.transforms = nn.ModuleList(_of_observations(agent.transforms, dims))

    @property
    def actor(self) -> Any:
        """The first part that writes an action, or what exploration makes one of."""
        parts = cast("Iterable[TensorModule]", self.parts)
        acted = {*self.action_keys, *(part.in_keys[0] for part in parts if isinstance(part, Explorer))}
        return next(part for part in parts if acted & set(part.out_keys))

    def forward(self, *observed: Tensor) -> Any:
        """The greedy action, or a tuple of its entries; see the class."""
        entries: dict[Key, Tensor] = {
            key: entry - self.starts[key] if key in self.starts else entry
            for key, entry in zip(self.keys, observed, strict=True)
        }
        for transform in cast("Iterable[OfEntry]", self.transforms):
            entries[transform.key] = transform(entries[transform.key])
        for part in cast("Iterable[TensorModule]", self.parts):
            # noise may read what a greedy policy does not need
            find = entries.get if isinstance(part, Explorer) else entries.__getitem__
            entries.update(zip(part.out_keys, part.compute(*map(find, part.in_keys)), strict=True))
        given = tuple(each(entries[key]) for each, key in zip(self.casts, self.action_keys, strict=True))
        return given if len(given) > 1 else given[0]

    def counted_from(self) -> dict[str, Any]:
        """The first value of each Discrete or MultiDiscrete entry and action that is not 0, by name."""
        starts = {name_of(key): start.tolist() for key, start in self.starts.items()}
        casts = zip(self.action_keys, self.casts, strict=True)
        return starts | {name_of(key): each.start.tolist() for key, each in casts if isinstance(each, _From)}

    def example(self, batch: int) -> tuple[Tensor, ...]:
        """Random inputs."""
        return tuple(self._random(key, spec, batch) for key, spec in self.specs.items())

    def _random(self, key: Key, spec: TensorSpec, batch: int) -> Tensor:
        if key == MASK:
            return torch.rand(batch, *spec.shape) < 0.7
        if isinstance(spec, Binary):
            return torch.randint(2, (batch, *spec.shape)).to(spec.dtype)
        if isinstance(spec, Categorical):
            share = torch.rand(batch, *spec.shape, dtype=torch.float64)
            return (share * nvec_of(spec, 0)).long() + self.starts.get(key, torch.tensor(0))
        real = spec.dtype.is_floating_point
        low, high = ((each if real else each.long()) for each in (spec.space.low, spec.space.high))
        # around the allowed number nearest to 0, because bounds may be infinite or huge
        middle, reach = torch.zeros_like(low).clamp(low, high), _WIDEST if real else _MOST
        low, high = (middle - reach).clamp_min(low), (middle + reach).clamp_max(high)
        share = torch.rand(batch, *spec.shape, dtype=spec.dtype if real else torch.float64)
        steps = (high - low) * share if real else (share * (high - low + 1)).long()
        return (low + steps).to(spec.dtype)


def tensors(greedy: GreedyPolicy) -> dict[str, Tensor]:
    """Weights, action bounds and the numbers of transforms, by names that do not depend on exploration."""
    actor = greedy.actor
    found: dict[str, Tensor] = {}
    for index, part in enumerate(greedy.parts):
        prefix = "policy" if part is actor else f"part.{index}"
        found |= {f"{prefix}.{name}": value for name, value in part.state_dict().items() if isinstance(value, Tensor)}
    for name, module in actor.named_modules(prefix="policy"):
        if isinstance(module, (DeterministicActor, GaussianActor)):
            place = name_of(greedy.action_keys[int(name.rpartition(".")[2])]) if name != "policy" else "action"
            for bound in ("low", "high"):
                found[f"{place}.{bound}"] = found.pop(f"{name}.{bound}")
    for transform in cast("Iterable[OfEntry]", greedy.transforms):
        found |= {f"{name_of(transform.key)}.{name}": value for name, value in transform.named_buffers()}
    return {name: value.detach().clone().contiguous() for name, value in found.items()}


def _described(policy: nn.Module) -> str:
    """What a policy that cannot be exported is."""
    if type(policy) is TensorDictSequential:
        for part in policy.get_submodule("module").children():
            if tensor_modules(part) is None:
                return f"with a part of kind {type(part).__name__}, which is no TensorModule of rlpipe,"
    return f"of kind {type(policy).__name__}"


def _start(space: Any) -> Tensor | None:
    """The first value of a Discrete or MultiDiscrete space, unless it is 0."""
    start = torch.as_tensor(np.asarray(getattr(space, "start", 0)).astype(np.int64))
    return start if start.any() else None


def _cast(space: Any) -> nn.Module:
    if isinstance(space, Box):
        return _Cast(space)
    start = _start(space)
    return nn.Identity() if start is None else _From(start)


class _From(nn.Module):
    """Counts Discrete and MultiDiscrete actions from the start of their space."""

    start: Tensor

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.register_buffer("start", start, persistent=False)

    def forward(self, action: Tensor) -> Tensor:
        return action + self.start


class _Cast(nn.Module):
    """`ActionCast` for the actions of a Box; the identity if they are in the space already."""

    low: Tensor
    high: Tensor
    parts: Tensor

    def __init__(self, space: Box) -> None:
        super().__init__()
        self.dtype = torch.from_numpy(np.zeros(1, space.dtype)).dtype
        self.whole = np.dtype(space.dtype).kind in "iub"
        low, high = (torch.from_numpy(each.astype(np.float64)) for each in (space.low, space.high))
        # the largest float64 that is not above the bound
        below = torch.nextafter(high, torch.full_like(high, -torch.inf))
        limit = 2.0**63 if self.dtype is torch.int64 else 2.0**64
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("high", torch.where(high >= limit, below, high) if self.whole else high, persistent=False)
        width = (high - low).clamp_min(1.0)
        self.register_buffer("parts", (width + 1) / width, persistent=False)

    def forward(self, action: Tensor) -> Tensor:
        if not self.whole:
            same = action.dtype == self.dtype == torch.float32
            return action if same else action.double().clamp(self.low, self.high).to(self.dtype)
        part = ((action.double() - self.low) * self.parts).floor().clamp_min(0.0)
        return (self.low + part).clamp(self.low, self.high).to(self.dtype)


class OfEntry(nn.Module):
    """A transform of the entry `key`."""

    def __init__(self, key: Key) -> None:
        super().__init__()
        self.key = key


class _Normalize(OfEntry):
    """`ObservationNorm` without branches on values, which cannot be exported."""

    mean: Tensor
    std: Tensor

    def __init__(self, transform: ObservationNorm) -> None:
        super().__init__(transform.in_keys[0])
        self.register_buffer("mean", transform.loc.detach().clone())
        self.register_buffer("std", transform.scale.detach().clone())

    def forward(self, observation: Tensor) -> Tensor:
        return (observation - self.mean) / self.std


class _Running(OfEntry):
    """`RunningObservationNorm` of one entry, in float64 as there."""

    mean: Tensor
    std: Tensor
    clip: Tensor

    def __init__(self, key: Key, moments: RunningMoments, clip: float) -> None:
        super().__init__(key)
        self.register_buffer("mean", torch.from_numpy(moments.now.mean))
        self.register_buffer("std", torch.from_numpy(moments.std()))
        self.register_buffer("clip", torch.tensor(clip, dtype=torch.float64))

    def forward(self, observation: Tensor) -> Tensor:
        normal = (observation.double() - self.mean) / self.std
        return torch.minimum(torch.maximum(normal, -self.clip), self.clip).float()


class _Bins(OfEntry):
    """`BinObservation`."""

    bin_low: Tensor
    bin_width: Tensor
    bin_place: Tensor

    def __init__(self, transform: BinObservation) -> None:
        super().__init__("observation")
        self.bins = transform.bins
        for name in ("low", "width", "place"):
            self.register_buffer(f"bin_{name}", getattr(transform, name).detach().clone())

    def forward(self, observation: Tensor) -> Tensor:
        digits = ((observation.flatten(1) - self.bin_low) / self.bin_width).floor().clamp(0, self.bins - 1)
        return (digits.long() * self.bin_place).sum(-1)


def _of_observations(transforms: tuple[Transform, ...], dims: Mapping[Key, int]) -> list[OfEntry]:
    """The transforms of entries, of which each has `dims` dimensions."""
    made: list[OfEntry] = []
    for transform in transforms:
        if "action" in transform.in_keys_inv and not isinstance(transform, DoubleToFloat):
            raise ConfigError(f"the transform {type(transform).__name__} of the action cannot be exported")
        if not any(key in dims for key in transform.in_keys):
            continue
        if isinstance(transform, RunningObservationNorm):
            each = zip(transform.in_keys, transform.each(), strict=True)
            made += [_Running(key, moments, transform.clip) for key, moments in each if key in dims]
        elif type(transform) is ObservationNorm and _is_plain(transform, dims):
            made.append(_Normalize(transform))
        elif isinstance(transform, BinObservation):
            made.append(_Bins(transform))
        else:
            raise ConfigError(f"the transform {type(transform).__name__} of the observation cannot be exported")
    return made


def _is_plain(transform: ObservationNorm, dims: Mapping[Key, int]) -> bool:
    """Whether it replaces one entry, with one mean and standard deviation for all environments."""
    replaces = list(transform.in_keys) == list(transform.out_keys) and len(transform.in_keys) == 1
    if not transform.standard_normal or not replaces:
        return False
    return not per_environment(transform.loc, transform.scale, dims[transform.in_keys[0]])
