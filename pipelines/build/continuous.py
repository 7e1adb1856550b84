"""What SAC and TD3 are made of: an actor over Box actions, its critics, and its exploration."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from tensordict.nn import TensorDictSequential
from torch import Tensor, nn
from torchrl.data import Bounded, Categorical, TensorSpec, Unbounded
from torchrl.envs import EnvBase

from rlpipe.errors import ConfigError
from rlpipe.modules import (
    MLP,
    ActionValueCritic,
    DeterministicActor,
    Explorer,
    Flatten,
    GaussianActor,
    GaussianNoise,
    Network,
    OrnsteinUhlenbeck,
    RandomWarmup,
    TensorModule,
)
from rlpipe.modules.actors import half_ranges
from rlpipe.modules.base import kind_of
from rlpipe.pipelines.build.networks import check_weights, make_first, make_trunk
from rlpipe.pipelines.config.continuous import ContinuousConfig
from rlpipe.pipelines.config.groups import ActionNoiseConfig, NetworkConfig
from rlpipe.pipelines.config.train import TrainConfig


def box_actions(config: TrainConfig, env: EnvBase, algorithm: str) -> TensorSpec:
    """The spec of the environment's actions, for an algorithm that needs a Box.

    Raises:
        ConfigError: they are another kind of actions, or have no numbers.
    """
    spec = env.full_action_spec.get("action")
    if not isinstance(spec, (Bounded, Unbounded)):
        others = "dqn or ppo" if isinstance(spec, Categorical) else "ppo"
        raise ConfigError(
            f"env_id is {config.env_id!r}, whose actions are {kind_of(spec)}; {algorithm} needs Box actions, try "
            f"{others}"
        )
    if not spec.shape[len(env.batch_size) :].numel():
        raise ConfigError(f"env_id is {config.env_id!r}, whose actions have no numbers")
    return spec


def action_units(actor: GaussianActor | DeterministicActor) -> Tensor:
    """Half the range of each element of an action, see `half_ranges`, `[*D]`."""
    return half_ranges(actor.low, actor.high).float()


def make_action_noise(config: ActionNoiseConfig, env: EnvBase, generator: torch.Generator) -> Explorer:
    """Make the noise of a config, of which a step forgets a share of `1 / noise_steps`."""
    spec, dims = env.full_action_spec["action"], len(env.batch_size)
    if config.noise_steps == 1:
        return GaussianNoise(spec, config.noise_std, generator, dims)
    forgets = 1 / config.noise_steps
    # so that the noise has the standard deviation in the long run
    sigma = config.noise_std * math.sqrt(2 * forgets - forgets**2)
    return OrnsteinUhlenbeck(spec, sigma, generator, dims, theta=forgets, dt=1.0)


def make_head(config: NetworkConfig, env: EnvBase, outputs: int) -> Network:
    """Make the network of a policy from an observation to `outputs` numbers, on a trunk of its own."""
    head = MLP(config.hidden[-1], outputs, (), initialization=config.initialization, gain=0.01)
    return Network(*make_trunk(config, env), *head)


def make_action_value_critics(config: NetworkConfig, env: EnvBase, units: Tensor, count: int = 2) -> nn.ModuleList:
    """Make critics `Q(s, a)` over Box actions, each with its own encoder of the observation.

    Args:
        config: of the networks.
        env: what they are for.
        units: half the range of each element of an action, by which it is divided, `[*D]`.
        count: how many.
    """
    spec, dims, divisor = env.full_action_spec["action"], len(env.batch_size), units.flatten().tolist()

    def make() -> ActionValueCritic:
        first = make_first(config, env)
        inputs = first.features + len(divisor)
        check_weights(config, first, inputs)
        layers = MLP(
            inputs,
            1,
            config.hidden,
            activation=config.activation,
            initialization=config.initialization,
            layer_norm=config.layer_norm,
        )
        scaled = [] if set(divisor) == {1.0} else [Flatten((inputs,), [1.0] * first.features + divisor)]
        return ActionValueCritic(Network(*scaled, *layers), spec, dims, first)

    return nn.ModuleList(make() for _ in range(count))


def with_warmup(
    config: ContinuousConfig, env: EnvBase, parts: Sequence[TensorModule], generator: torch.Generator
) -> TensorDictSequential:
    """Make the policy that collects: an actor and what explores behind it, at first random if the config says so."""
    spec, dims = env.full_action_spec["action"], len(env.batch_size)
    warmup = [RandomWarmup(spec, config.warmup_frames, generator, dims)] if config.random_warmup else []
    return TensorDictSequential(*parts, *warmup)
