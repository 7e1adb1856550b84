"""The training environment of a Config, and the loss of a life as an end for learning."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import gymnasium as gym
import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.data import Bounded
from torchrl.envs import EnvBase, ObservationNorm, Transform, TransformedEnv

from rlpipe.arithmetic import ceil_div
from rlpipe.errors import ConfigError
from rlpipe.modules import CNN
from rlpipe.modules.images import is_image
from rlpipe.pipelines.build.collector import env_device
from rlpipe.pipelines.config.groups import LivesConfig
from rlpipe.pipelines.config.train import TrainConfig
from rlpipe.pipelines.envs import EnvConfig, ShapeReward, env_spec, make_env
from rlpipe.pipelines.envs.make import make_env_of_any_size
from rlpipe.pipelines.envs.rendering import check_drawable
from rlpipe.pipelines.envs.reward_shaping import make_shaping
from rlpipe.pipelines.envs.transforms import Standardize
from rlpipe.pipelines.pipeline import Update
from rlpipe.pipelines.seeding import GlobalRandom, Seeds

_LOG = logging.getLogger("rlpipe")
_LEAST_STEPS = 10
"""Fewest random steps of each environment for observation statistics."""
Spaces = tuple[gym.Space[Any], gym.Space[Any]]
"""Observation space and action space."""
_STILL, _SMALL = 1e-3, 1e-6
"""A feature with a smaller standard deviation counts as constant: relative to its size, and in absolute terms."""
_OFF = 1e-4
"""Largest error of the mean in float32, in standard deviations."""


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
    if config.normalize_frames is not None:
        transforms.append(observation_norm(config.env, config.normalize_frames, seeds))
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


def warn_of_unnamed(config: TrainConfig) -> None:
    """Say in one line which parts of the environment `config.json` will not hold."""
    if unnamed := config.unnamed():
        _LOG.warning(
            "rlpipe: config.json cannot hold %s: rlpipe evaluate, render, export and resume will not find this "
            "environment again, only trained(run, env=...) in Python; what is in a module, and not in the script that "
            "is run, can be named",
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


def observation_norm(config: EnvConfig, frames: int, seeds: Seeds) -> ObservationNorm:
    """Make TorchRL's `ObservationNorm` from the mean and standard deviation of random frames; it stays fixed.

    For observations that are not floats, or whose mean float32 cannot hold, it is a `Standardize`.

    Raises:
        ConfigError: the observation is not a Box, or is an image, or the frames are too few.
    """
    least = _LEAST_STEPS * config.num_envs
    if frames < least:
        raise ConfigError(f"normalize_frames is {frames}; allowed is {least} or more, {_LEAST_STEPS} an environment")
    with GlobalRandom().kept(seeds.integer("normalization")):
        seen = _random_observations(config, frames, seeds)
    mean, std = seen.double().mean(0), seen.double().std(0)
    # a feature that is constant, or moves only in its last digits, is not divided
    std = torch.where(std > (_STILL * seen.double().abs().amax(0)).clamp_max(_SMALL), std, 1.0)
    moved_by_float32 = (mean.float().double() - mean).abs() > _OFF * std
    if seen.dtype not in (torch.float32, torch.float64) or moved_by_float32.any():
        return Standardize(mean, std)
    return ObservationNorm(mean.float(), std.float(), in_keys=["observation"], standard_normal=True)


def _random_observations(config: EnvConfig, frames: int, seeds: Seeds) -> Tensor:
    env = make_env(config, seed=seeds.integer("normalization"))
    spec = env.observation_spec["observation"]
    try:
        if not isinstance(spec, Bounded):
            raise ConfigError(f"normalize_frames needs a Box observation, and {config.env_id!r} has none")
        if not spec.dtype.is_floating_point and is_image(spec, spec.shape[1:], CNN.least):
            raise ConfigError(
                f"normalize_frames is given, but the network scales the images of {config.env_id!r} itself"
            )
        with seeds.torch_seeded("normalization"):
            rollout = env.rollout(ceil_div(frames, config.num_envs), break_when_any_done=False)
        return rollout.get("observation").transpose(0, 1).flatten(0, 1)[:frames]
    finally:
        env.close()


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
