"""Observations of pixels: the last four rendered images, grey, 84x84, as is usual for Atari.

Worker processes import this module, so it must not import PyTorch.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict

from rlpipe.errors import ConfigError, RlpipeError

SIDE = 84
"""Height and width of an observed image, in pixels."""
STACKED = 4
"""Images of an observation, newest last."""

_LUMINANCE = np.array([299.0, 587.0, 114.0])
"""Of red, green and blue, in thousandths: ITU-R recommendation BT.601."""


class PixelObservation(gym.Wrapper[Any, Any, Any, Any]):
    """Observes what the environment renders, uint8 `[4, 84, 84]`, instead of its own observation.

    An episode begins with its first image four times. If the environment has an `action_mask`, the observation is a
    Dict of `observation` and `action_mask`. `render` returns the original image.

    Args:
        env: made with the render mode `rgb_array`.

    Raises:
        RlpipeError: from `reset` and `step`, if it renders something else.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        images, space = Box(0, 255, (STACKED, SIDE, SIDE), np.uint8), env.observation_space
        self._masked = isinstance(space, Dict) and "action_mask" in space.spaces
        self.observation_space = images
        if isinstance(space, Dict) and self._masked:
            self.observation_space = Dict(observation=images, action_mask=space["action_mask"])
        self.images = np.zeros(images.shape, np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        self.images = np.repeat(self._draw(), STACKED, axis=0)
        return self._observed(observation), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, *rest = self.env.step(action)
        # a new array, because the old one may still be in use
        self.images = np.concatenate([self.images[1:], self._draw()])
        return self._observed(observation), *rest

    def _draw(self) -> np.ndarray:
        return shrink(check_image(self.env.render()))[None]

    def _observed(self, observation: Any) -> Any:
        if not self._masked:
            return self.images
        return {"observation": self.images, "action_mask": observation["action_mask"]}


def shrink(image: np.ndarray, side: int = SIDE) -> np.ndarray:
    """Shrink an image, in grey: uint8 `[height, width, 3]` to `[side, side]`.

    Each pixel is the rounded mean luminance of its area, with pixels at its edges counted in proportion. This is exact,
    because all sums are whole numbers that floats can hold.
    """
    height, width, _ = image.shape
    if image.strides[0] < image.strides[1]:
        # pygame stores images column by column
        return shrink(image.transpose(1, 0, 2), side).T
    rows = _overlaps(height, side, np.float32) @ image.reshape(height, -1).astype(np.float32)
    grey = rows.reshape(side, width, 3).astype(np.float64) @ _LUMINANCE
    summed = (_overlaps(width, side, np.float64) @ grey.T).T
    mean: np.ndarray = np.rint(summed / (1000 * height * width)).astype(np.uint8)
    return mean


@functools.lru_cache(maxsize=16)
def _overlaps(size: int, side: int, dtype: Any) -> Any:
    """How much of each of `size` old pixels is in each of `side` new ones, `[side, size]`; each row sums to `size`."""
    from scipy.sparse import csr_array  # noqa: PLC0415 - takes a while

    new, old = size * np.arange(side + 1), side * np.arange(size + 1)
    overlap = np.minimum(new[1:, None], old[1:]) - np.maximum(new[:-1, None], old[:-1])
    return csr_array(overlap.clip(0).astype(dtype))


def check_image(image: Any) -> np.ndarray:
    """Return an image, uint8 `[height, width, 3]`; anything else is an `RlpipeError`."""
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        return image
    found = f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
    raise RlpipeError(f"render() gave {found}, expected uint8 [height, width, 3]")


def check_modes(env_id: object, metadata: Mapping[str, Any], who: str) -> None:
    """Refuse an environment without a render mode `rgb_array`, by a `ConfigError`; `who` needs the images."""
    modes = metadata.get("render_modes") or []
    if "rgb_array" not in modes:
        has = f"only {', '.join(modes)}" if modes else "no render mode at all"
        raise ConfigError(f"env-id {env_id!r} draws no images: it has {has}, and {who} needs rgb_array")


def choose_drivers() -> None:
    """Render off screen if there is no display; otherwise MuJoCo fails, and SDL prints warnings."""
    shown = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    if sys.platform == "linux" and not shown:
        for name, driver in (("MUJOCO_GL", "egl"), ("SDL_VIDEODRIVER", "dummy"), ("SDL_AUDIODRIVER", "dummy")):
            os.environ.setdefault(name, driver)
