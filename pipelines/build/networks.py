"""The networks, actors, critics and exploration of a Config."""

from __future__ import annotations

import itertools
import math

import torch
from torch import nn
from torchrl.data import Categorical
from torchrl.envs import EnvBase

from rlpipe.errors import ConfigError
from rlpipe.modules import (
    CNN,
    MLP,
    CategoricalActor,
    Critic,
    EpsilonGreedy,
    Flatten,
    GaussianActor,
    OneHot,
    Shared,
    encoder,
    make_schedule,
)
from rlpipe.modules.images import image_scale, is_image
from rlpipe.pipelines.config.groups import ActorConfig, ActorCriticConfig, ExplorationConfig, NetworkConfig
from rlpipe.pipelines.devices import check_memory

_COPIES = 4
"""Copies of a network's weights while it learns: weights, gradient, and the two moments of Adam."""


def is_masked(env: EnvBase) -> bool:
    """Whether the environment gives an action mask."""
    return "action_mask" in env.observation_spec.keys()  # noqa: SIM118 - a Composite is no Mapping


def make_trunk(config: NetworkConfig, env: EnvBase, *, shared: bool = False) -> nn.Sequential:
    """Make the layers from an observation `[*B, ...]` to the last hidden features, `[*B, config.hidden[-1]]`.

    Images (see `CNN`) of 36 pixels a side or more pass the convolutions of the DQN papers before the hidden layers;
    with `hidden` 512 that is the papers' network. Smaller images of bytes are scaled and flattened. If several networks
    begin with it (`shared`), a loss computes the features of an image once.

    Raises:
        ConfigError: `observation_scale` does not fit the observation, or the observation is empty.
    """
    first = _make_first(config, env)
    sizes = (first.features, *config.hidden)
    weights = sum((inputs + 1) * outputs for inputs, outputs in itertools.pairwise(sizes))
    weights += sum(each.numel() for each in first.parameters())
    bytes_needed = weights * _COPIES * torch.get_default_dtype().itemsize
    check_memory(f"hidden has {weights:,} weights; training them needs", bytes_needed, torch.device("cpu"))
    layers = MLP(
        first.features,
        None,
        config.hidden,
        activation=config.activation,
        initialization=config.initialization,
        layer_norm=config.layer_norm,
    )
    if shared and isinstance(first, CNN):
        return nn.Sequential(Shared(first, *layers))
    return nn.Sequential(first, *layers)


def _make_first(config: NetworkConfig, env: EnvBase) -> CNN | Flatten | OneHot:
    """The layers before the hidden ones."""
    spec, dims = env.observation_spec["observation"], len(env.batch_size)
    shape, scale = spec.shape[dims:], config.observation_scale
    if not shape.numel():
        raise ConfigError(f"the observation has shape {list(shape)}, which holds no numbers; expected at least one")
    if is_image(spec, shape, CNN.least):
        divisor = image_scale(spec)
        if scale is not None:
            raise ConfigError(
                f"observation_scale is given, and the observation is an image, {list(shape)}, which the network "
                f"divides by {divisor:g} itself; --observation-scale none turns it off"
            )
        return CNN(shape, config.initialization, divisor)
    if scale is None and spec.dtype is torch.uint8 and len(shape) > 1 and image_scale(spec) > 1:
        # an image too small for the convolutions
        scale = (image_scale(spec),) * shape.numel()
    try:
        return encoder(spec, dims, scale)
    except ValueError as error:
        raise ConfigError(f"observation_{error}") from error


def make_actor(
    config: ActorConfig, env: EnvBase, trunk: nn.Sequential, generator: torch.Generator
) -> CategoricalActor | GaussianActor:
    """Make the stochastic policy: categorical for Discrete actions, Gaussian for Box actions.

    Raises:
        ConfigError: the action is empty.
    """
    spec = env.action_spec
    discrete = isinstance(spec, Categorical)
    outputs = int(spec.space.n) if discrete else math.prod(spec.shape[len(env.batch_size) :])
    if not discrete and config.state_dependent_std:
        outputs *= 2
    head = MLP(config.hidden[-1], outputs, (), initialization=config.initialization, gain=0.01)
    network = nn.Sequential(*trunk, *head)
    try:
        if discrete:
            return CategoricalActor(network, spec, generator, masked=is_masked(env))
        return GaussianActor(
            network,
            spec,
            generator,
            batch_dims=len(env.batch_size),
            initial_std=config.initial_std,
            state_dependent_std=config.state_dependent_std,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error


def make_explorer(config: ExplorationConfig, env: EnvBase, generator: torch.Generator) -> EpsilonGreedy:
    """Make epsilon-greedy exploration with the config's schedule."""
    start, end, over = config.epsilon_start, config.epsilon_end, config.epsilon_frames
    schedule = make_schedule(config.epsilon_schedule, start, end, frames=over, factor=config.epsilon_factor)
    return EpsilonGreedy(env.action_spec, schedule, generator, is_masked(env))


def make_critic(config: NetworkConfig, trunk: nn.Sequential) -> Critic:
    """Make a state value on top of `trunk`."""
    return Critic(nn.Sequential(*trunk, *MLP(config.hidden[-1], 1, (), initialization=config.initialization)))


def make_actor_critic(
    config: ActorCriticConfig, env: EnvBase, generator: torch.Generator
) -> tuple[CategoricalActor | GaussianActor, Critic]:
    """Make the stochastic policy and a state value, on one trunk if the config shares it.

    Raises:
        ConfigError: the networks do not fit the environment.
    """
    trunk = make_trunk(config, env, shared=config.shared_trunk)
    actor = make_actor(config, env, trunk, generator)
    return actor, make_critic(config, trunk if config.shared_trunk else make_trunk(config, env))
