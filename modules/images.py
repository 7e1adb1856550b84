"""The layout of images in an observation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torchrl.data import Bounded, TensorSpec

_LARGEST = 2**16
"""A larger bound says nothing about the actual numbers."""


class ImageLayout(NamedTuple):
    """The order of dimensions that makes an observation `[C, H, W]`, with several images concatenated in C."""

    order: tuple[int, ...]
    channels: int
    height: int
    width: int

    @classmethod
    def of(cls, shape: Sequence[int]) -> ImageLayout | None:
        """The layout of `[H, W]`, `[C, H, W]`, `[H, W, C]`, or `[S, C, H, W]` and `[S, H, W, C]` of S images.

        Channels are last if the last dimension is smaller than the first one they can be in, else first.
        """
        if len(shape) == 2:
            return cls((0, 1), 1, *shape)
        if len(shape) not in (3, 4):
            return None
        stacked, image = tuple(shape[:-3]), shape[-3:]
        first = len(stacked)
        order = (2, 0, 1) if image[2] < image[0] else (0, 1, 2)
        channels, height, width = (image[place] for place in order)
        order = (*range(first), *(first + place for place in order))
        return cls(order, channels * (stacked[0] if stacked else 1), height, width)


def image_scale(spec: TensorSpec) -> float:
    """The number by which to divide an image so that it is at most 1: 255 for most images of bytes.

    In general the largest number that the spec allows; 1 if it has no such bound, or negative floats, which are
    normalised already.
    """
    if not isinstance(spec, Bounded):
        return 1.0
    if spec.dtype.is_floating_point and (spec.space.low < 0).any():
        return 1.0
    largest = max(float(each.double().abs().max()) for each in (spec.space.low, spec.space.high))
    return largest if 1.0 <= largest < _LARGEST else 1.0


def is_image(spec: TensorSpec, shape: Sequence[int], least: int) -> bool:
    """Whether an observation of this spec is an image of at least `least` pixels a side.

    Two dimensions are an image only if they are bytes.
    """
    layout = ImageLayout.of(shape) if isinstance(spec, Bounded) else None
    if layout is None or min(layout.height, layout.width) < least or not layout.channels:
        return False
    return len(shape) > 2 or spec.dtype is torch.uint8
