"""Actors and critics: TensorDictModules on TorchRL's key names, built from specs, knowing no algorithm."""

from __future__ import annotations

from abc import abstractmethod
from typing import Protocol

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn
from torchrl.data import Bounded, TensorSpec
from torchrl.data import Categorical as CategoricalSpec
from torchrl.envs.utils import ExplorationType, exploration_type

from rlpipe.modules.distributions import Categorical, TanhNormal


class _Drawable(Protocol):
    @property
    def mode(self) -> Tensor: ...
    def draw(self, generator: torch.Generator | None = None) -> Tensor: ...
    def log_prob(self, value: Tensor) -> Tensor: ...


def exploring() -> bool:
    """Whether modules explore: under `ExplorationType.RANDOM` and nowhere else, as TorchRL's collectors set it."""
    return exploration_type() is ExplorationType.RANDOM


class QActor(TensorDictModuleBase):
    """Greedy actor over action values, with the keys of TorchRL's `QValueActor`.

    Writes `action_value` `[*B, A]`, `action` `[*B]` and `chosen_action_value` `[*B, 1]`.

    Args:
        network: observation to `[*B, A]`.
        action_spec: the environment's; must be Discrete (TorchRL's `Categorical`).

    Raises:
        ValueError: any other action spec.
    """

    action_space = "categorical"

    def __init__(self, network: nn.Module, action_spec: TensorSpec) -> None:
        super().__init__()
        if not isinstance(action_spec, CategoricalSpec):
            raise ValueError(f"QActor needs Discrete actions (a Categorical spec), got {type(action_spec).__name__}")
        self.in_keys = ["observation"]
        self.out_keys = ["action_value", "action", "chosen_action_value"]
        self.network = network

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        action_value = self.network(tensordict.get("observation"))
        chosen, action = action_value.max(-1, keepdim=True)
        tensordict.set("action_value", action_value)
        tensordict.set("action", action.squeeze(-1))
        return tensordict.set("chosen_action_value", chosen)


class _StochasticActor(TensorDictModuleBase):
    """Writes `action` and `action_log_prob` `[*B]`: a sample while exploring, else the mode.

    Args:
        network: observation to the distribution's parameters.
        generator: draws the samples; `None` is PyTorch's global one.
    """

    def __init__(self, network: nn.Module, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.in_keys = ["observation"]
        self.out_keys = ["action", "action_log_prob"]
        self.network = network
        self.generator = generator

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        distribution = self.get_dist(tensordict)
        action = distribution.draw(self.generator) if exploring() else distribution.mode
        tensordict.set("action", action)
        return tensordict.set("action_log_prob", distribution.log_prob(action))

    @abstractmethod
    def get_dist(self, tensordict: TensorDictBase) -> _Drawable:
        """The action distribution for a batch of observations; the name is TorchRL's."""


class CategoricalActor(_StochasticActor):
    """Softmax policy over Discrete actions: the network gives logits `[*B, A]`.

    Args:
        network: observation to `[*B, A]`.
        action_spec: the environment's; must be Discrete (TorchRL's `Categorical`).
        generator: draws the samples; `None` is PyTorch's global one.

    Raises:
        ValueError: any other action spec.
    """

    def __init__(self, network: nn.Module, action_spec: TensorSpec, generator: torch.Generator | None = None) -> None:
        super().__init__(network, generator)
        if not isinstance(action_spec, CategoricalSpec):
            name = type(action_spec).__name__
            raise ValueError(f"CategoricalActor needs Discrete actions (a Categorical spec), got {name}")

    def get_dist(self, tensordict: TensorDictBase) -> Categorical:
        return Categorical(self.network(tensordict.get("observation")))


class GaussianActor(_StochasticActor):
    """Tanh-squashed Gaussian policy over bounded Box actions of any shape.

    The network gives the mean before squashing. The standard deviation is a learned parameter, the same in every state
    (Schulman et al. 2015).

    Args:
        network: observation to `[*B, D]`, D the number of elements of an action.
        action_spec: the environment's, batch dimensions included; must be a Box with finite bounds.
        generator: draws the samples; `None` is PyTorch's global one.
        initial_std: before squashing; 1 covers most of the action range.
        batch_dims: how many of the spec's leading dimensions are the environment's batch.

    Raises:
        ValueError: any other action spec, or infinite bounds.
    """

    low: Tensor
    high: Tensor

    def __init__(
        self,
        network: nn.Module,
        action_spec: TensorSpec,
        generator: torch.Generator | None = None,
        initial_std: float = 1.0,
        batch_dims: int = 1,
    ) -> None:
        super().__init__(network, generator)
        if not isinstance(action_spec, Bounded):
            raise ValueError(f"GaussianActor needs bounded Box actions, got {type(action_spec).__name__}")
        self.shape = action_spec.shape[batch_dims:]
        low, high = (
            bound.reshape(-1, *self.shape)[0].float() for bound in (action_spec.space.low, action_spec.space.high)
        )
        if not (low.isfinite().all() and high.isfinite().all()):
            raise ValueError(f"GaussianActor needs finite action bounds, got {low.tolist()} to {high.tolist()}")
        self.register_buffer("low", low)
        self.register_buffer("high", high)
        self.log_std = nn.Parameter(torch.full(self.shape, initial_std).log())

    def get_dist(self, tensordict: TensorDictBase) -> TanhNormal:
        flat = self.network(tensordict.get("observation"))
        mean = flat.reshape(*flat.shape[:-1], *self.shape)
        return TanhNormal(mean, self.log_std.exp().expand_as(mean), self.low, self.high)


class Critic(TensorDictModuleBase):
    """State value: writes `state_value` `[*B, 1]`.

    Args:
        network: observation to `[*B, 1]`.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.in_keys = ["observation"]
        self.out_keys = ["state_value"]
        self.network = network

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        return tensordict.set("state_value", self.network(tensordict.get("observation")))
