"""The backends: their names, and how each makes a vector environment.

Backends are imported when they are first used, because options name them in processes that must start quickly.
"""
# ruff: noqa: PLC0415

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Literal

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, VectorEnv

if TYPE_CHECKING:
    from rlpipe.pipelines.envs.config import EnvConfig

Backend = Literal["auto", "sync", "async", "envpool"]
"""How environments are stepped: `auto` and `sync` in this process, `async` in one process each, `envpool` in C++."""
WITHOUT_IMAGES = ("envpool",)
"""Backends whose environments do not render."""
WITHOUT_INFOS = ("envpool",)
"""Backends that leave out what environments report in `info`."""
_OF_VECTOR_CARTPOLE = {"sutton_barto_reward"}
_OF_VECTOR_GAMES = {"repeat_action_probability", "full_action_space"}
"""Arguments that the vectorised implementation takes too."""
_CARTPOLE = "gymnasium.envs.classic_control.cartpole:CartPoleEnv"


def make_vector_env(config: EnvConfig, spec: EnvSpec, kwargs: dict[str, Any]) -> VectorEnv:
    """The vector environment of a config's backend, of environments made from `spec` and `kwargs`."""
    from rlpipe.pipelines.envs.arguments.wrapping import wrap
    from rlpipe.pipelines.envs.backends.env_checker import make_checked
    from rlpipe.pipelines.envs.infos.keys import parse_keys

    around = functools.partial(wrap, config=config, env_id=config.env_id) if config.is_wrapped else None
    make_one = functools.partial(make_checked, spec, kwargs, wrap=around, log_info=parse_keys(config.log_info))
    if config.backend == "envpool":
        from rlpipe.pipelines.envs.backends.envpool import EnvPoolVectorEnv

        return EnvPoolVectorEnv(spec, config.num_envs, config.max_episode_steps)
    if config.backend == "async":
        from rlpipe.pipelines.envs.backends.async_workers import WorkerVectorEnv

        return WorkerVectorEnv([make_one] * config.num_envs, spec, autoreset_mode=AutoresetMode.SAME_STEP)
    vectorised = _make_vectorised(config, spec, kwargs) if config.backend == "auto" and not config.is_wrapped else None
    if vectorised is not None:
        return vectorised
    from rlpipe.pipelines.envs.backends.sync import SyncEnvs

    names = [f"environment {index} of {config.num_envs} ({spec.id})" for index in range(config.num_envs)]
    return SyncEnvs([functools.partial(make_one, name) for name in names], spec)


def _make_vectorised(config: EnvConfig, spec: EnvSpec, kwargs: dict[str, Any]) -> VectorEnv | None:
    """An environment's own vectorised implementation, if there is one that is known to be correct."""
    from rlpipe.pipelines.envs.backends.atari_game import is_game

    if is_game(spec) and "render_mode" not in kwargs and config.kwargs.keys() <= _OF_VECTOR_GAMES:
        from rlpipe.pipelines.envs.backends.atari_vector import AtariGames

        return AtariGames(spec, config.num_envs, config.max_episode_steps)
    steps = config.max_episode_steps or spec.max_episode_steps
    if spec.entry_point == _CARTPOLE and steps is not None and spec.kwargs.keys() <= _OF_VECTOR_CARTPOLE:
        from rlpipe.pipelines.envs.backends.cartpole import SameStepCartPole

        envs = SameStepCartPole(config.num_envs, max_episode_steps=steps, **spec.kwargs)
        envs.spec = spec
        return envs
    if spec.namespace == "rlpipe" and spec.vector_entry_point is not None and not config.kwargs:
        return gym.make_vec(spec, config.num_envs, vectorization_mode="vector_entry_point", **kwargs)
    return None
