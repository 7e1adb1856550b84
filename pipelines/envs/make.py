"""`make_env`: from an `EnvConfig` to a `TransformedEnv`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import torch
from gymnasium.envs.registration import load_env_creator
from torchrl.envs import Compose, EnvBase, Transform, TransformedEnv

from rlpipe.errors import ConfigError, RlpipeError, first_line
from rlpipe.pipelines.envs.actions import transformed_class
from rlpipe.pipelines.envs.arguments.given import MadeForTorchRLError, with_arguments
from rlpipe.pipelines.envs.arguments.known import env_spec
from rlpipe.pipelines.envs.arguments.names import as_arguments
from rlpipe.pipelines.envs.arguments.signature import taken_by, unknown_argument
from rlpipe.pipelines.envs.backends.atari_game import AtariGame, is_game
from rlpipe.pipelines.envs.backends.choice import WITHOUT_IMAGES, make_vector_env
from rlpipe.pipelines.envs.backends.env_checker import make_checked
from rlpipe.pipelines.envs.backends.pixel_observation import PixelObservation, check_modes, choose_drivers
from rlpipe.pipelines.envs.config import EnvConfig
from rlpipe.pipelines.envs.frozen_transforms import check_steps
from rlpipe.pipelines.envs.tensor.make import adopt_given, make_tensor_env
from rlpipe.pipelines.envs.tensor.torchrl_env import BatchSizeError
from rlpipe.pipelines.envs.vector import VectorEnv
from rlpipe.user_modules import reason_of
from rlpipe.warn_once import notice

_UNEXPECTED = re.compile(r"unexpected keyword argument '(\w+)'")
# part of an entry point: rlpipe's extra with its package
_EXTRAS = {"mujoco": "mujoco", "box2d": "box2d", "ale_py": "atari"}


def make_env(
    config: EnvConfig,
    *,
    seed: int | None = None,
    transforms: Sequence[Transform] = (),
    render_mode: str | None = None,
    device: torch.device | str = "cpu",
) -> TransformedEnv:
    """Build a batched environment, `[num_envs]`, also for one.

    Args:
        config: which environment, how many, and on which backend.
        seed: of the first reset; the environments' own seeds are derived from it.
        transforms: TorchRL transforms, in order.
        render_mode: one that the environments have; `env.base_env.envs.render()` then renders them.
        device: of environments that are tensors; all others are on the CPU.

    Raises:
        TypeError: `config` is not an `EnvConfig`.
        ConfigError: the environment does not exist, needs an extra, or is not available on the backend; or rlpipe does
            not support its spaces or a transform.
    """
    check_is_config(config)
    check_steps(transforms)
    spec = env_spec(config.env_id)
    place = torch.device(device)
    tensors = make_tensor_env(config, spec, seed=seed, render_mode=render_mode, device=place)
    try:
        envs = _make_vector_env(config, render_mode) if tensors is None else None
    except MadeForTorchRLError as made:
        # called again, with what it takes
        made.env.close(raise_if_closed=False)
        tensors = adopt_given(made.make, config, spec, seed=seed, render_mode=render_mode, device=place)
    if tensors is not None and config.log_info:
        notice(f"rlpipe: log_info: {config.env_id} is an environment of tensors, which has no info to log")
    opened: Any = envs if tensors is None else tensors
    try:
        if tensors is not None:
            tensors.made_from = config
            return _transformed(TransformedEnv, tensors, transforms)
        base = VectorEnv(opened, seed=seed, reuses_arrays=False, log_info=config.log_info)
        base.made_from = config
        return _transformed(transformed_class(base), base, transforms)
    except BaseException:
        opened.close()
        raise


def make_env_of_any_size(config: EnvConfig, **options: Any) -> TransformedEnv:
    """`make_env`, with as many environments as there are if it is not for the config to say.

    So it is with an instance that is batched, or a function that takes no number.
    """
    try:
        return make_env(config, **options)
    except BatchSizeError as error:
        return make_env(dataclasses.replace(config, num_envs=error.num_envs), **options)


def _transformed(kind: type[TransformedEnv], base: EnvBase, transforms: Sequence[Transform]) -> TransformedEnv:
    chain = Compose(*transforms)
    # the bounds of bins, and statistics
    env = kind(base, chain if base.device.type == "cpu" else chain.to(base.device))
    env.specs  # noqa: B018 - built on first use; a transform that does not fit must fail now
    return env


def check_is_config(config: object) -> None:
    """Refuse what is not an `EnvConfig`, such as an id, by a `TypeError`."""
    if not isinstance(config, EnvConfig):
        raise TypeError(f"got {config!r}, expected an EnvConfig, such as EnvConfig('CartPole-v1')")


def _make_vector_env(config: EnvConfig, render_mode: str | None) -> gym.vector.VectorEnv:
    spec = env_spec(config.env_id)
    kwargs = _options(config, render_mode)
    try:
        spec = with_arguments(spec, as_arguments(config.kwargs, "kwargs"), config.env_id)
        if config.from_pixels:
            _check_drawn(config, spec)
        return make_vector_env(config, spec, kwargs)
    except (gym.error.DependencyNotInstalled, ModuleNotFoundError) as error:
        extras = [extra for part, extra in _EXTRAS.items() if part in str(spec.entry_point)]
        install = f'pip install "rlpipe[{extras[0]}]"' if extras else first_line(error)
        raise ConfigError(f"env-id {config.env_id!r} needs a package that is missing: {install}") from error
    except SystemExit as error:
        raise ConfigError(f"env-id {config.env_id!r} cannot be made: {reason_of(error)}") from error
    except MemoryError as error:
        raise ConfigError(f"num_envs is {config.num_envs}; there is not enough memory for that many") from error
    except RlpipeError:
        raise
    except Exception as error:
        if (found := _UNEXPECTED.search(str(error))) and isinstance(error, TypeError) and found[1] in config.kwargs:
            taken = taken_by(_creator(spec))
            raise unknown_argument(found[1], taken, f"env-kwargs: {config.env_id}") from error
        # messages of Gymnasium's errors say enough
        kind = "" if isinstance(error, (gym.error.Error, TypeError)) or not str(error) else f"{type(error).__name__}: "
        raise ConfigError(f"env-id {config.env_id!r} cannot be made: {kind}{first_line(error)}") from error


def _creator(spec: gym.envs.registration.EnvSpec) -> Any:
    point = spec.entry_point
    return load_env_creator(point) if isinstance(point, str) else getattr(point, "make", point)


def _options(config: EnvConfig, render_mode: str | None) -> dict[str, Any]:
    """Gymnasium's arguments for making an environment."""
    if config.from_pixels and render_mode not in (None, "rgb_array"):
        raise ConfigError(f"render_mode is {render_mode!r}; an environment with from_pixels has rgb_array")
    if config.backend in WITHOUT_IMAGES and render_mode is not None:
        raise ConfigError(f"render_mode is {render_mode!r}; backend {config.backend!r} draws nothing, 'sync' does")
    render_mode = "rgb_array" if config.from_pixels else render_mode
    options = {"max_episode_steps": config.max_episode_steps, "render_mode": render_mode}
    return {name: value for name, value in options.items() if value is not None}


def _check_drawn(config: EnvConfig, spec: gym.envs.registration.EnvSpec) -> None:
    """Refuse an environment that renders no images, before it is made with a render mode."""
    if is_game(spec):
        metadata = AtariGame.metadata
    else:
        env = make_checked(spec, {}, wrap=PixelObservation)
        metadata = env.metadata
        env.close()
    check_modes(config.env_id, metadata, "--from-pixels")
    choose_drivers()
