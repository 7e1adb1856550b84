"""The training environment of a Config, and the loss of a life as an end for learning."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import gymnasium as gym
from tensordict import TensorDictBase
from torchrl.envs import EnvBase, Transform, TransformedEnv

from rlpipe.errors import ConfigError
from rlpipe.pipelines.build.collector import env_device
from rlpipe.pipelines.config.environment import EnvArgumentsConfig
from rlpipe.pipelines.config.groups import LivesConfig
from rlpipe.pipelines.config.train import TrainConfig
from rlpipe.pipelines.envs import ShapeReward, env_spec, make_env
from rlpipe.pipelines.envs.make import make_env_of_any_size
from rlpipe.pipelines.envs.normalization.running import RunningObservationNorm, RunningRewardNorm
from rlpipe.pipelines.envs.rendering import check_drawable
from rlpipe.pipelines.envs.reward_shaping import make_shaping
from rlpipe.pipelines.pipeline import Update
from rlpipe.pipelines.seeding import GlobalRandom, Seeds

_LOG = logging.getLogger("rlpipe")
Spaces = tuple[gym.Space[Any], gym.Space[Any]]
"""Observation space and action space."""


def make_training_env(config: TrainConfig, seeds: Seeds, last: Sequence[Transform] = ()) -> TransformedEnv:
    """Make the training environment with the transforms of the config, and the algorithm's `last`, after these.

    Raises:
        ConfigError: the environment is not available, or a transform does not fit it.
    """
    if config.reward_shaping == "balance" and "CartPole" not in str(env_spec(config.env_id).entry_point):
        raise ConfigError(f"reward_shaping is 'balance', which is made for CartPole; env_id is {config.env_id!r}")
    if config.from_pixels:
        with _naming("env_id", config.env_id):
            check_drawable(config.env, "--from-pixels")
    eval_spaces = _eval_spaces(config)
    transforms: list[Transform] = []
    shaping = make_shaping(config.reward_shaping, config.shaping_steps)
    if shaping is not None:
        transforms.append(ShapeReward(shaping))
    if config.normalize_observation:
        transforms.append(RunningObservationNorm(clip=config.clip_observation))
    if config.normalize_reward:
        if not hasattr(config, "gamma"):
            raise ConfigError("normalize_reward is True, which needs a field gamma; let Config inherit RolloutConfig")
        transforms.append(RunningRewardNorm(config.gamma, config.clip_reward))
    with _naming("env_id", config.env_id):
        # if other processes collect, this one only gives specs and transforms
        here = replace(config.env, num_envs=config.num_envs // config.num_collectors)
        where = env_device(config)
        env = make_env(here, seed=seeds.integer("environments"), transforms=[*transforms, *last], device=where)
    spaces = _spaces_of(env)
    # the policy must fit both
    if eval_spaces is not None and eval_spaces != spaces:
        env.close()
        there = f"observations and actions there are {eval_spaces[0]} and {eval_spaces[1]}, here {spaces[0]} and "
        if config.eval_env_id is None:
            raise ConfigError(
                f"eval_env_kwargs are {json.dumps(config.eval_env_kwargs)}, with which {config.env_id!r} has other "
                f"spaces than in training; {there}{spaces[1]}"
            )
        raise ConfigError(
            f"eval_env_id is {config.eval_env_id!r}, whose spaces are not those of {config.env_id!r}; {there}"
            f"{spaces[1]}; --eval-env-id none evaluates where it trains"
        )
    return env


def warn_of_unnamed(config: EnvArgumentsConfig) -> None:
    """Say in one line which parts of the environment `config.json` will not hold."""
    if unnamed := config.unnamed():
        _LOG.warning(
            "rlpipe: config.json cannot hold %s: rlpipe evaluate, render, export and resume will not find this "
            "environment again, only rlpipe.load(run, env=...) in Python; what is in a module, and not in the script "
            "that is run, can be named",
            " and ".join(unnamed),
        )


@contextlib.contextmanager
def _naming(field: str, env_id: str) -> Iterator[None]:
    """Put the environment's id in front of an error that does not name it."""
    try:
        yield
    except ConfigError as error:
        if env_id in str(error):
            raise
        raise ConfigError(f"{field} is {env_id!r}: {error}") from error


def _eval_spaces(config: TrainConfig) -> Spaces | None:
    """The spaces of the evaluation environment, if it differs; it is closed before the training one is made."""
    if config.eval_env_id is None and config.eval_env_kwargs is None:
        return None
    one = replace(config.eval_env, num_envs=1, backend="auto")
    field = "eval_env_kwargs" if config.eval_env_id is None else "eval_env_id"
    with _naming(field, config.eval_env.env_id), GlobalRandom().kept():
        if config.from_pixels:
            check_drawable(config.eval_env, "--from-pixels")
        with contextlib.closing(make_env_of_any_size(one)) as env:
            return _spaces_of(env)


def _spaces_of(env: TransformedEnv) -> Spaces:
    envs = env.base_env.envs
    return envs.single_observation_space, envs.single_action_space


def make_lives(config: LivesConfig, env: EnvBase) -> Update:
    """Make the function from a collected batch `[num_envs, T]` to the batch to learn from.

    With `end_at_life_loss` that is a copy in which a step that loses a life, but not the last, is `terminated`: Mnih et
    al. 2015, Methods. The environment is not reset there.

    Raises:
        ConfigError: `end_at_life_loss` is set, and the environment does not count lives.
    """
    if not config.end_at_life_loss:
        return lambda batch: batch
    if "lives" not in env.observation_spec.keys():  # noqa: SIM118 - a Composite is no Mapping
        drawn = isinstance(config, TrainConfig) and config.from_pixels
        raise ConfigError(
            "end_at_life_loss is True, which needs an environment that counts lives, such as ALE/Breakout-v5; this one "
            f"{'is seen from pixels, which hide them' if drawn else 'does not'}; --no-end-at-life-loss leaves it out"
        )

    def end_at_life_loss(batch: TensorDictBase) -> TensorDictBase:
        after = batch.get("next").copy()
        left = after.get("lives")
        lost = ((left < batch.get("lives")) & (left > 0)).unsqueeze(-1)
        for key in ("terminated", "done"):
            after.set(key, after.get(key) | lost)
        return batch.copy().set("next", after)

    return end_at_life_loss
