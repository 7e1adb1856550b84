"""Environments that render images, and errors that say why one cannot."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
from torchrl.envs import TransformedEnv

from rlpipe.errors import ConfigError, RlpipeError, first_line
from rlpipe.pipelines.envs import EnvConfig, make_env
from rlpipe.pipelines.envs.backends.env_checker import Checked
from rlpipe.pipelines.envs.backends.pixel_observation import (
    PixelObservation,
    check_image,
    check_modes,
    choose_drivers,
)
from rlpipe.pipelines.seeding import GlobalRandom


class Camera(gym.Wrapper[Any, Any, Any, Any]):
    """Keeps an image of an episode's last state, which is lost when the environment resets."""

    def __init__(self, env: gym.Env[Any, Any], env_id: object) -> None:
        super().__init__(env)
        self._env_id = env_id
        self.armed = True
        self.seen = np.zeros((1, 1, 3), np.uint8)

    @classmethod
    def of(cls, env: TransformedEnv, env_id: object) -> Camera:
        """Wrap the first environment of a vector environment."""
        envs = env.base_env.envs.envs
        envs[0] = camera = cls(envs[0], env_id)
        return camera

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        result = self.env.step(action)
        if result[2] or result[3]:
            self.seen = self.take()
        return result

    def take(self) -> np.ndarray:
        """Render the present state, uint8 `[height, width, 3]`."""
        try:
            image = self.env.render()
        except Exception as error:  # environments raise their own, such as for a missing display
            why = f"{first_line(error)}{_opengl(self.env)}"
            raise ConfigError(f"env-id {self._env_id!r} cannot be drawn here: {why}") from error
        try:
            return check_image(image)
        except RlpipeError as error:
            raise ConfigError(f"env-id {self._env_id!r} draws no images: {error}") from error


def check_drawable(env_config: EnvConfig, what: str = "a GIF") -> None:
    """Check that an environment renders images, which `what` needs, by opening one, rendering it, and closing it.

    Raises:
        ConfigError: it has no render mode for images, or this machine cannot render them.
    """
    with GlobalRandom().kept():
        env = make_drawn(env_config, seed=None, what=what)
        try:
            single = env.base_env.envs.envs[0]
            if (observer := _observer(single)) is not None:
                # without that wrapper, which would fail in its reset; the space below it may be of any kind
                single = Checked(observer.env, f"environment 0 of 1 ({env_config.env_id})")
            single.reset()
            Camera(single, env_config.env_id).take()
        finally:
            env.close()


def make_drawn(env_config: EnvConfig, *, seed: int | None, num_envs: int = 1, what: str = "a GIF") -> TransformedEnv:
    """An environment with render mode `rgb_array`; a `ConfigError` says that it has none, and that `what` needs it."""
    drawn = replace(env_config, num_envs=num_envs, backend="sync")
    check_modes(drawn.env_id, metadata(drawn), what)
    choose_drivers()
    return make_env(drawn, seed=seed, render_mode="rgb_array")


def metadata(env_config: EnvConfig) -> dict[str, Any]:
    """An environment's metadata, such as `render_fps`."""
    with GlobalRandom().kept():
        env = make_env(replace(env_config, num_envs=1, backend="sync"))
        try:
            return dict(env.base_env.envs.metadata)
        finally:
            env.close()


def _observer(env: gym.Env[Any, Any]) -> PixelObservation | None:
    while isinstance(env, gym.Wrapper) and not isinstance(env, PixelObservation):
        env = env.env
    return env if isinstance(env, PixelObservation) else None


def _opengl(env: gym.Env[Any, Any]) -> str:
    """A hint about OpenGL for environments of MuJoCo, else an empty string."""
    if not any("mujoco" in f"{each.__module__}.{each.__name__}".lower() for each in type(env.unwrapped).__mro__):
        return ""
    return (
        f"; MUJOCO_GL is {os.environ.get('MUJOCO_GL', 'not set')}: without a display it must be egl or osmesa, and the "
        "library for it installed (on Debian libegl1 or libosmesa6)"
    )
