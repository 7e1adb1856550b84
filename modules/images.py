"""How images lie in an observation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torchrl.data import Bounded, TensorSpec

_LARGEST = 2**16
"""Beyond, a bound says nothing of the numbers that come."""


class ImageLayout(NamedTuple):
    """Where an observation's own dimensions have to go for `[C, H, W]`, several images one behind the other in C."""

    order: tuple[int, ...]
    channels: int
    height: int
    width: int

    @classmethod
    def of(cls, shape: Sequence[int]) -> ImageLayout | None:
        """The layout of `[H, W]`, `[C, H, W]`, `[H, W, C]`, or `[S, C, H, W]` and `[S, H, W, C]` of S images.

        The channels are last where the last dimension is the smaller of the two that they can be in, and else first.
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
    """What to divide the numbers of an image by, for them to be at most 1: 255 for bytes, as a rule.

    Otherwise the largest one that the spec allows; 1, where it has no such bound, or negative floats, which have been
    normalised already.
    """
    if not isinstance(spec, Bounded):
        return 1.0
    if spec.dtype.is_floating_point and (spec.space.low < 0).any():
        return 1.0
    largest = max(float(each.double().abs().max()) for each in (spec.space.low, spec.space.high))
    return largest if 1.0 <= largest < _LARGEST else 1.0


def is_image(spec: TensorSpec, shape: Sequence[int], least: int) -> bool:
    """Whether an observation of this spec is an image of at least so many pixels a side.

    Two dimensions are one of bytes only; of other numbers they may be anything.
    """
    layout = ImageLayout.of(shape) if isinstance(spec, Bounded) else None
    if layout is None or min(layout.height, layout.width) < least or not layout.channels:
        return False
    return len(shape) > 2 or spec.dtype is torch.uint8
