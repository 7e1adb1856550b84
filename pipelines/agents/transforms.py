"""The transforms of a run's observation as modules of one entry each, without TensorDicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torchrl.envs import DoubleToFloat, ObservationNorm, Transform

from rlpipe.errors import ConfigError
from rlpipe.pipelines.envs import BinObservation
from rlpipe.pipelines.envs.entries import Key
from rlpipe.pipelines.envs.frozen_transforms import per_environment
from rlpipe.pipelines.envs.normalization.moments import RunningMoments
from rlpipe.pipelines.envs.normalization.running import RunningObservationNorm


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


class Running(OfEntry):
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

    def in_numpy(self) -> Callable[[np.ndarray], np.ndarray]:
        """The same function of arrays, in a third of the time for a single observation."""
        mean, std, clip = self.mean.numpy(), self.std.numpy(), float(self.clip)

        def normalize(observation: np.ndarray) -> np.ndarray:
            normal = (observation.astype(np.float64) - mean) / std
            return np.minimum(np.maximum(normal, -clip), clip).astype(np.float32)

        return normalize


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


def of_observations(transforms: tuple[Transform, ...], dims: Mapping[Key, int]) -> list[OfEntry]:
    """The transforms of those entries that `dims` names, with how many dimensions each has.

    Raises:
        ConfigError: one of them, or a transform of the action, cannot be exported.
    """
    made: list[OfEntry] = []
    for transform in transforms:
        if "action" in transform.in_keys_inv and not isinstance(transform, DoubleToFloat):
            raise ConfigError(f"the transform {type(transform).__name__} of the action cannot be exported")
        if not any(key in dims for key in transform.in_keys):
            continue
        if isinstance(transform, RunningObservationNorm):
            each = zip(transform.in_keys, transform.each(), strict=True)
            made += [Running(key, moments, transform.clip) for key, moments in each if key in dims]
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
