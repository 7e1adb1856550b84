"""The networks, actors, critics and exploration of a Config."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from tensordict.nn import TensorDictModuleBase
from torchrl.envs import EnvBase

from rlpipe.errors import ConfigError
from rlpipe.modules import (
    CNN,
    MLP,
    Critic,
    EpsilonGreedy,
    GaussianActor,
    Network,
    Shared,
    encoder,
    make_schedule,
    policy_outputs,
    stochastic_actor,
)
from rlpipe.modules.actors import StochasticActor
from rlpipe.modules.encoders import FirstLayer
from rlpipe.modules.recurrent import Memory, remembering
from rlpipe.pipelines.config.groups import (
    ActorConfig,
    ActorCriticConfig,
    ExplorationConfig,
    MemoryConfig,
    NetworkConfig,
    PolicyGradientConfig,
)
from rlpipe.pipelines.devices import check_memory

_COPIES = 4
"""Copies of a network's weights while it learns: weights, gradient, and the two moments of Adam."""


def is_masked(env: EnvBase) -> bool:
    """Whether the environment gives an action mask."""
    return "action_mask" in env.observation_spec.keys()  # noqa: SIM118 - a Composite is no Mapping


def make_trunk(config: NetworkConfig, env: EnvBase, *, shared: bool = False) -> Network:
    """Make the layers from an observation `[*B, ...]` to the last hidden features, `[*B, config.hidden[-1]]`.

    Several entries are encoded one by one and joined (see `encoder`); the network takes their tensors.
    Images (see `CNN`) of 36 pixels a side or more pass the convolutions of the DQN papers before the hidden layers;
    with `hidden` 512 that is the papers' network. Smaller images of bytes are scaled and flattened. If several networks
    begin with it (`shared`), a loss computes the features of an image once.

    Raises:
        ConfigError: `observation_scale` does not fit the observation, or the observation is empty or of a kind that
            networks do not take.
    """
    first = make_first(config, env)
    check_weights(config, first, first.features)
    layers = MLP(
        first.features,
        None,
        config.hidden,
        activation=config.activation,
        initialization=config.initialization,
        layer_norm=config.layer_norm,
    )
    if shared and any(isinstance(each, CNN) for each in first.modules()):
        return Network(Shared(first, *layers))
    return Network(first, *layers)


def check_weights(config: NetworkConfig, first: FirstLayer, inputs: int) -> None:
    """Check that hidden layers for `inputs` numbers fit into memory, with the layers `first` before them.

    Raises:
        ConfigError: they do not.
    """
    sizes = (inputs, *config.hidden)
    weights = sum((inputs + 1) * outputs for inputs, outputs in itertools.pairwise(sizes))
    weights += sum(each.numel() for each in first.parameters())
    bytes_needed = weights * _COPIES * torch.get_default_dtype().itemsize
    check_memory(f"hidden has {weights:,} weights; training them needs", bytes_needed, torch.device("cpu"))


def make_first(config: NetworkConfig, env: EnvBase) -> FirstLayer:
    """Make the layers before the hidden ones.

    Raises:
        ConfigError: `observation_scale` does not fit the observation, or networks do not take its kind.
    """
    scale = config.observation_scale
    try:
        return encoder(env.observation_spec, len(env.batch_size), scale, config.initialization)
    except ValueError as error:
        if scale is None:
            raise ConfigError(str(error)) from error
        raise ConfigError(f"observation_{error}; --observation-scale none turns it off") from error


def make_memory(config: PolicyGradientConfig, env: EnvBase) -> Memory | None:
    """Make the first layers, with the config's recurrent layer behind them; `None` if it has none.

    Raises:
        ConfigError: as for `make_trunk`.
    """
    if config.recurrent is None:
        return None
    trunk = make_trunk(config, env)
    return Memory(trunk, config.hidden[-1], config.recurrent_size, config.recurrent, config.initialization)


def _features(config: NetworkConfig) -> int:
    """How many features the trunk of a head gives."""
    if isinstance(config, MemoryConfig) and config.recurrent is not None:
        return config.recurrent_size
    return config.hidden[-1]


def make_actor(config: ActorConfig, env: EnvBase, trunk: Network, generator: torch.Generator) -> StochasticActor:
    """Make the stochastic policy for the environment's actions, of whatever kind they are.

    Raises:
        ConfigError: the action is empty, or its kind takes no mask.
    """
    spec, dims, with_std = env.full_action_spec, len(env.batch_size), config.state_dependent_std
    try:
        outputs = policy_outputs(spec, dims, with_std)
        head = MLP(_features(config), outputs, (), initialization=config.initialization, gain=0.01)
        network = Network(*trunk, *head, in_keys=trunk.in_keys)
        actor = stochastic_actor(network, spec, generator, is_masked(env), dims, with_std)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    for each in actor.modules():
        if isinstance(each, GaussianActor):
            each.set_initial_std(config.initial_std)
    return actor


def make_explorer(config: ExplorationConfig, env: EnvBase, generator: torch.Generator) -> EpsilonGreedy:
    """Make epsilon-greedy exploration with the config's schedule."""
    start, end, over = config.epsilon_start, config.epsilon_end, config.epsilon_frames
    schedule = make_schedule(config.epsilon_schedule, start, end, frames=over, factor=config.epsilon_factor)
    return EpsilonGreedy(env.action_spec, schedule, generator, is_masked(env), len(env.batch_size))


def make_critic(config: NetworkConfig, trunk: Network) -> Critic:
    """Make a state value on top of `trunk`."""
    head = MLP(_features(config), 1, (), initialization=config.initialization)
    return Critic(Network(*trunk, *head, in_keys=trunk.in_keys))


def make_actor_critic(
    config: PolicyGradientConfig, env: EnvBase, generator: torch.Generator, *, with_critic: bool = True
) -> tuple[TensorDictModuleBase, Any]:
    """Make the stochastic policy and a state value, or `None`.

    They have one trunk if the config shares it. With a memory, which stands before both, they always have.

    Raises:
        ConfigError: the networks do not fit the environment.
    """
    memory = make_memory(config, env)
    shared = isinstance(config, ActorCriticConfig) and config.shared_trunk
    trunk = make_trunk(config, env, shared=shared) if memory is None else Network(in_keys=memory.out_keys[:1])
    actor = remembering(memory, make_actor(config, env, trunk, generator))
    if not with_critic:
        return actor, None
    separate = memory is None and not shared
    return actor, remembering(memory, make_critic(config, make_trunk(config, env) if separate else trunk))
