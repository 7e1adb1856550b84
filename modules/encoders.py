"""From observations of any kind to one vector of features."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from tensordict.utils import NestedKey
from torch import Tensor, nn
from torchrl.data import Binary, Bounded, Categorical, Composite, TensorSpec, Unbounded
from torchrl.data import OneHot as OneHotSpec

from rlpipe.kinds import Initialization
from rlpipe.modules.base import FINE, kind_of
from rlpipe.modules.choices import nvec_of
from rlpipe.modules.images import image_scale, is_image
from rlpipe.modules.networks import CNN

NOT_ENCODED = ("step_count", "episode_reward", "action_mask", "lives")
"""Entries at the root of an observation that are counters and masks, not what a network sees."""


class Flatten(nn.Module):
    """Flatten a Box observation and cast it to float: `[*B, *shape]` to `[*B, features]`.

    Args:
        shape: of one observation.
        scale: divides each feature; one number per feature.
        offset: subtracted before, in float64; one number per feature.
    """

    in_keys: list[NestedKey]
    scale: Tensor | None
    offset: Tensor | None
    of_environment = ("scale", "offset")
    """Buffers that describe the environment; a run that starts from another keeps its own."""

    def __init__(
        self, shape: Sequence[int], scale: Sequence[float] | None = None, offset: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        self.dims, self.features = len(shape), math.prod(shape)
        if scale is not None and len(scale) != self.features:
            raise ValueError(f"scale has {len(scale)} numbers, expected {self.features}: one per feature")
        self.register_buffer("scale", None if scale is None else torch.tensor(scale, dtype=torch.float32))
        self.register_buffer("offset", None if offset is None else torch.tensor(offset, dtype=torch.float64))

    def forward(self, observation: Tensor) -> Tensor:
        if self.dims != 1:
            batch = observation.shape[: observation.ndim - self.dims]
            observation = observation.reshape(*batch, self.features)
        if self.offset is not None:
            observation = observation.double() - self.offset
        observation = observation.to(torch.get_default_dtype())
        return observation if self.scale is None else observation / self.scale


class OneHot(nn.Module):
    """Encode a Discrete observation: integers `[*B]` to `[*B, n]`."""

    in_keys: list[NestedKey]

    def __init__(self, n: int) -> None:
        super().__init__()
        self.features = n

    def forward(self, observation: Tensor) -> Tensor:
        # not PyTorch's one_hot, which reads the numbers on the host, so it cannot be recorded
        zeros = torch.zeros(*observation.shape, self.features, device=observation.device)
        return zeros.scatter_(-1, observation.long().unsqueeze(-1), 1.0)


class MultiOneHot(nn.Module):
    """Encode a MultiDiscrete observation: integers `[*B, *shape]` to `[*B, sum(nvec)]`, the one-hots side by side.

    Args:
        nvec: how many values each number can have, `[*shape]`.
    """

    in_keys: list[NestedKey]
    starts: Tensor

    def __init__(self, nvec: Tensor) -> None:
        super().__init__()
        self.dims, self.features = nvec.ndim, int(nvec.sum())
        sizes = nvec.flatten()
        self.register_buffer("starts", sizes.cumsum(0) - sizes, persistent=False)

    def forward(self, observation: Tensor) -> Tensor:
        batch = observation.shape[: observation.ndim - self.dims]
        places = observation.reshape(*batch, len(self.starts)) + self.starts
        return torch.zeros(*batch, self.features, device=observation.device).scatter_(-1, places, 1.0)


class Pixels(nn.Module):
    """Scale images of bytes to 0 to 1, channels first, for convolutions: `[*B, H, W, C]` to `[*B, C, H, W]`."""

    def forward(self, observation: Tensor) -> Tensor:
        return observation.movedim(-1, -3).to(torch.get_default_dtype()) / 255


OneEntry: TypeAlias = Flatten | OneHot | MultiOneHot | CNN
"""Layers that encode one entry."""


class Encoder(nn.Module):
    """Encode several entries, each by its own layer, and join them: tensors of `in_keys` to `[*B, features]`.

    Args:
        layers: the layer of each entry by its key, in the order in which the tensors come; each has `features`.
    """

    def __init__(self, layers: Mapping[NestedKey, OneEntry]) -> None:
        super().__init__()
        self.in_keys: list[NestedKey] = list(layers)
        self.layers = nn.ModuleList(layers.values())
        self.features = sum(layer.features for layer in layers.values())

    def forward(self, *entries: Tensor) -> Tensor:
        return torch.cat([layer(entry) for layer, entry in zip(self.layers, entries, strict=True)], -1)


FirstLayer: TypeAlias = OneEntry | Encoder
"""What `encoder` makes."""


def encoder(
    spec: TensorSpec,
    batch_dims: int = 1,
    scale: Sequence[float] | None = None,
    initialization: Initialization = "default",
) -> FirstLayer:
    """The first layer for observations of this spec; it has `features`, and `in_keys`, the entries that it is for.

    A Box is flattened (`Flatten`), or passes the convolutions of a `CNN` if it is an image of 36 pixels a side or more;
    smaller images of bytes are divided by their largest number. Discrete becomes `OneHot`, MultiDiscrete `MultiOneHot`,
    MultiBinary floats. If the bounds of a Box are so far from 0 that float32 has too few numbers between them, the
    lower bound is subtracted. Several entries are encoded one by one and joined in the spec's order (`Encoder`).

    Args:
        spec: `env.observation_spec`, batch dimensions included; counters and `action_mask` are left out. Or that of one
            entry.
        batch_dims: how many of its leading dimensions are the environment's batch.
        scale: divides each feature of an observation that is one Box.
        initialization: of convolutions.

    Raises:
        ValueError: an entry of another kind, such as text; no numbers at all; or a `scale` that does not fit.
    """
    leaves = observed_leaves(spec)
    for key, leaf in leaves.items():
        _check_kind(key, leaf)
    if scale is not None and len(leaves) > 1:
        raise ValueError(f"scale is for an observation that is one Box; this one has the entries {list(leaves)}")
    layers = {key: _layer(leaf, batch_dims, scale, initialization) for key, leaf in leaves.items()}
    if not sum(layer.features for layer in layers.values()):
        shapes = " and ".join(str(list(leaf.shape[batch_dims:])) for leaf in leaves.values())
        what = f"has shape {shapes}, which holds no numbers" if leaves else "has nothing to encode"
        raise ValueError(f"the observation {what}; expected at least one number")
    if len(layers) > 1:
        return Encoder(layers)
    ((key, layer),) = layers.items()
    layer.in_keys = [key]
    return layer


def observed_leaves(spec: TensorSpec) -> dict[NestedKey, TensorSpec]:
    """The spec of each entry that a network sees, by key, in the order of `spec`."""
    if not isinstance(spec, Composite):
        return {"observation": spec}
    return {key: leaf for key, leaf in spec.items(True, True) if key not in NOT_ENCODED}


def _check_kind(key: NestedKey, spec: TensorSpec) -> None:
    if not isinstance(spec, (Bounded, Unbounded, Categorical, OneHotSpec)):
        raise ValueError(
            f"encoder takes Box, Discrete, MultiDiscrete and MultiBinary observations, alone or as entries of a Dict; "
            f"{key!r} is {kind_of(spec)}; leave it out by a wrapper of the environment, or encode it there"
        )


def _layer(
    spec: TensorSpec, batch_dims: int, scale: Sequence[float] | None, initialization: Initialization
) -> OneEntry:
    """The layer of one entry."""
    shape = spec.shape[batch_dims:]
    if isinstance(spec, Categorical) and not isinstance(spec, Binary):
        if scale is not None:
            raise ValueError(f"scale is for Box observations; this one is {kind_of(spec)}")
        return MultiOneHot(nvec_of(spec, batch_dims)) if shape else OneHot(int(spec.space.n))
    if is_image(spec, shape, CNN.least):
        divisor = image_scale(spec)
        if scale is not None:
            raise ValueError(
                f"scale is given, and the observation is an image, {list(shape)}, which the network divides by "
                f"{divisor:g} itself"
            )
        return CNN(shape, initialization, divisor)
    if scale is None and spec.dtype is torch.uint8 and len(shape) > 1 and image_scale(spec) > 1:
        # an image too small for the convolutions
        scale = (image_scale(spec),) * shape.numel()
    return Flatten(shape, scale, _far_from_zero(spec, batch_dims))


def _far_from_zero(spec: TensorSpec, batch_dims: int) -> list[float] | None:
    """The lower bounds of features that float32 cannot resolve, 0 for others; `None` if it resolves all."""
    shape = spec.shape[batch_dims:]
    if not isinstance(spec, Bounded) or not shape.numel():
        return None
    low, high = (each.double().reshape(-1, shape.numel())[:1].flatten() for each in (spec.space.low, spec.space.high))
    far = (high > low) & (high - low < torch.maximum(low.abs(), high.abs()) * FINE) & low.isfinite() & high.isfinite()
    return torch.where(far, low, 0.0).tolist() if far.any() else None
