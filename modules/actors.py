"""Actors and critics: TensorDictModules on TorchRL's key names, built from specs, knowing no algorithm."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from tensordict import TensorDictBase
from torch import Tensor, nn
from torchrl.data import Bounded, TensorSpec, Unbounded
from torchrl.data import Categorical as CategoricalSpec
from torchrl.envs.utils import ExplorationType, exploration_type

from rlpipe.modules.base import FINE, TensorModule, check_outputs, keys_read, needs_discrete
from rlpipe.modules.choices import joint_choices
from rlpipe.modules.distributions import BoxNormal, Categorical, TanhNormal, quadrature


def exploring() -> bool:
    """Whether modules explore: only under `ExplorationType.RANDOM`, which TorchRL's collectors set."""
    return exploration_type() is ExplorationType.RANDOM


def only_allowed(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Set `scores` `[*B, A]` to minus infinity where `mask` `[*B, A]` forbids an action; `None` allows all.

    A row that forbids all actions, as some environments give after an episode's end, is ignored.
    """
    if mask is None:
        return scores
    return scores.masked_fill(~mask & mask.any(-1, keepdim=True), -torch.inf)


class QActor(TensorModule):
    """Greedy actor over action values, with the keys of TorchRL's `QValueActor`.

    Writes `action_value` `[*B, A]`, `action` `[*B]` and `chosen_action_value` `[*B, 1]`. The value of a forbidden
    action is minus infinity. MultiDiscrete and MultiBinary actions, `[*B, *shape]`, have a value for each combination
    (`JointChoices` numbers them), up to 1,024.

    Args:
        network: what `in_keys` hold to `[*B, A]`.
        action_spec: the environment's; must be Discrete, MultiDiscrete or MultiBinary.
        masked: read `action_mask` `[*B, A]`, or flat `[*B, sum(nvec)]`, and take allowed actions only.
        tie_breaker: while exploring, draws one of several best actions; `None` takes the first.
        batch_dims: how many of the spec's leading dimensions are the environment's batch.

    Raises:
        ValueError: any other action spec, or too many combinations.
    """

    action_space = "categorical"

    def __init__(
        self,
        network: nn.Module,
        action_spec: TensorSpec,
        masked: bool = False,
        tie_breaker: torch.Generator | None = None,
        batch_dims: int = 1,
    ) -> None:
        super().__init__()
        self.joint = joint_choices(action_spec, masked, batch_dims)
        hint = "for Box actions there is GaussianActor"
        self.actions = needs_discrete(self, action_spec, hint) if self.joint is None else self.joint.actions
        self.in_keys = [*keys_read(network), *(["action_mask"] if masked else [])]
        self.out_keys = ["action_value", "action", "chosen_action_value"]
        self.network, self.masked, self.generator = network, masked, tie_breaker

    def compute(self, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        entries, mask = (inputs[:-1], inputs[-1]) if self.masked else (inputs, None)
        if mask is not None and self.joint is not None:
            mask = self.joint.allowed(mask)
        action_value = only_allowed(check_outputs(self, self.through(self.network, *entries), self.actions), mask)
        chosen, action = action_value.max(-1, keepdim=True)
        if self.generator is not None and exploring():
            lots = torch.rand(action_value.shape, generator=self.generator, device=action_value.device)
            action = lots.masked_fill_(action_value < chosen, -1.0).argmax(-1, keepdim=True)
        action = action.squeeze(-1)
        return action_value, action if self.joint is None else self.joint.at(action), chosen


class StochasticActor(TensorModule):
    """Writes `action` and `action_log_prob` `[*B]`: a sample while exploring, else the mode."""

    def __init__(self, network: nn.Module, generator: torch.Generator | None = None, masked: bool = False) -> None:
        super().__init__()
        self.in_keys = [*keys_read(network), *(["action_mask"] if masked else [])]
        self.out_keys = ["action", "action_log_prob"]
        self.network, self.generator, self.masked = network, generator, masked

    def from_outputs(self, outputs: Tensor, mask: Tensor | None = None) -> Any:
        """The action distribution that the network's outputs describe; each subclass defines it."""
        raise NotImplementedError

    def distribution(self, *inputs: Tensor) -> Any:
        """The action distribution for the entries of `in_keys`."""
        entries, mask = (inputs[:-1], inputs[-1]) if self.masked else (inputs, None)
        return self.from_outputs(self.through(self.network, *entries), mask)

    def choose(self, distribution: Any) -> tuple[Any, Tensor]:
        """An action, and its log-probability."""
        action = distribution.draw(self.generator) if exploring() else distribution.mode
        return action, distribution.log_prob(action)

    def compute(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return self.choose(self.distribution(*inputs))

    def get_dist(self, tensordict: TensorDictBase) -> Any:
        """The action distribution for a batch of observations; the name is TorchRL's."""
        return self.distribution(*self.read(tensordict))


class CategoricalActor(StochasticActor):
    """Softmax policy over Discrete actions: the network gives logits `[*B, A]`.

    Args:
        network: what `in_keys` hold to `[*B, A]`.
        action_spec: the environment's; must be Discrete (TorchRL's `Categorical`).
        generator: draws the samples; `None` is PyTorch's global one.
        masked: read `action_mask` `[*B, A]`; a forbidden action has probability 0.

    Raises:
        ValueError: any other action spec.
    """

    def __init__(
        self,
        network: nn.Module,
        action_spec: TensorSpec,
        generator: torch.Generator | None = None,
        masked: bool = False,
    ) -> None:
        super().__init__(network, generator, masked)
        self.actions = needs_discrete(self, action_spec, "for Box actions there is GaussianActor")

    def from_outputs(self, outputs: Tensor, mask: Tensor | None = None) -> Categorical:
        return Categorical(only_allowed(check_outputs(self, outputs, self.actions), mask))


class GaussianActor(StochasticActor):
    """Tanh-squashed Gaussian policy over Box actions of any shape.

    `BoxNormal` takes dimensions without bounds, with one, or with two equal ones; a bound beyond 1.7e38, half of
    float32's largest number, counts as none. Actions are float32, or float64 where float32 is too coarse, such as
    between 1e9 and 1e9 + 1.

    The network gives the mean before squashing. The standard deviation is a learned parameter, the same in every state
    (Schulman et al. 2015), or with `state_dependent_std` comes from the network as well, by a softplus (as that of
    TorchRL's `NormalParamExtractor`) and at least 1e-4.

    Args:
        network: observation to `[*B, D]`, D the number of elements of an action, or `[*B, 2 D]` if it gives the std.
        action_spec: the environment's, batch dimensions included; must be a Box of floats.
        generator: draws the samples; `None` is PyTorch's global one.
        initial_std: before squashing; 1 covers most of the action range. From a network, where its output is 0.
        batch_dims: how many of the spec's leading dimensions are the environment's batch.
        state_dependent_std: see above.

    Raises:
        ValueError: any other action spec, or an action of no numbers.
    """

    low: Tensor
    high: Tensor
    quadrature: Tensor
    of_environment = ("low", "high")
    """Buffers that describe the environment; a run that starts from another keeps its own."""

    def __init__(
        self,
        network: nn.Module,
        action_spec: TensorSpec,
        generator: torch.Generator | None = None,
        initial_std: float = 1.0,
        batch_dims: int = 1,
        state_dependent_std: bool = False,
    ) -> None:
        super().__init__(network, generator)
        if not isinstance(action_spec, (Bounded, Unbounded)) or not action_spec.dtype.is_floating_point:
            hint = "pass env.action_spec of an environment of make_env"
            if isinstance(action_spec, CategoricalSpec):
                hint = "for Discrete actions there is CategoricalActor"
            what = f"{type(action_spec).__name__} of {action_spec.dtype}"
            raise ValueError(f"GaussianActor needs Box actions of floats, got {what}; {hint}")
        self.shape = action_spec.shape[batch_dims:]
        if not self.shape.numel():
            raise ValueError(f"GaussianActor needs an action of numbers, got one of shape {list(self.shape)}")
        low, high = _bounds(action_spec, self.shape)
        ordinary = bool((low.isfinite() & high.isfinite() & (high / 2 - low / 2 > 0)).all())
        self._kind = TanhNormal if ordinary else BoxNormal
        self.register_buffer("low", low)
        self.register_buffer("high", high)
        # a buffer, so that it moves to the device once and not in each update
        self.register_buffer("quadrature", quadrature(), persistent=False)
        self.state_dependent_std, self._bias = state_dependent_std, math.log(math.expm1(initial_std))
        self.log_std = None if state_dependent_std else nn.Parameter(torch.full(self.shape, initial_std).log())

    def set_initial_std(self, std: float) -> None:
        """Start again from another `initial_std`."""
        self._bias = math.log(math.expm1(std))
        if self.log_std is not None:
            self.log_std.data = torch.full_like(self.log_std, std).log()

    def from_outputs(self, outputs: Tensor, mask: Tensor | None = None) -> TanhNormal:
        flat, expected = outputs, self.shape.numel() * (2 if self.log_std is None else 1)
        if flat.shape[-1:].numel() != expected:
            given = flat.shape[-1:].numel()
            raise ValueError(
                f"the network of GaussianActor gives {given} numbers, expected {expected} for actions "
                f"of shape {list(self.shape)}{' with a standard deviation each' if self.log_std is None else ''}"
            )
        if self.log_std is None:
            flat, raw = flat.chunk(2, -1)
            std = F.softplus(raw + self._bias).clamp_min(1e-4).reshape(*flat.shape[:-1], *self.shape)
        mean = flat.reshape(*flat.shape[:-1], *self.shape)
        if self.log_std is not None:
            std = self.log_std.exp().expand_as(mean)
        return self._kind(mean, std, self.low, self.high, self.quadrature)


def _bounds(spec: Bounded | Unbounded, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """Lowest and highest action, `[*D]` each: float32, or float64 where float32 has too few numbers between them."""
    if isinstance(spec, Unbounded):
        infinite = torch.full(shape, torch.inf)
        return -infinite, infinite
    low, high = (bound.reshape(-1, *shape)[0].double() for bound in (spec.space.low, spec.space.high))
    limits = torch.finfo(torch.float32)
    # bounds near the largest number mean that there are none
    low, high = (each.masked_fill(each.abs() >= limits.max / 2, torch.inf).copysign(each) for each in (low, high))
    distance = torch.maximum(*(torch.where(each.isfinite(), each, 0.0).abs() for each in (low, high)))
    width = torch.where((high - low).isfinite(), high - low, 1.0)
    is_fine = (width >= distance * FINE) & (width >= 4 * limits.tiny) | (width == 0)
    return (low.float(), high.float()) if is_fine.all() else (low, high)


class Critic(TensorModule):
    """State value: writes `state_value` `[*B, 1]`, which `network` gives for what `in_keys` hold."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.in_keys = keys_read(network)
        self.out_keys = ["state_value"]
        self.network = network

    def compute(self, *entries: Tensor) -> tuple[Tensor]:
        return (self.through(self.network, *entries),)


class ActionValueCritic(TensorModule):
    """Value of one action, `Q(s, a)`: writes `state_action_value` `[*B, 1]`, the key of TorchRL's `ValueOperator`.

    Unlike `QActor`, whose network gives a value for every Discrete action, it reads the action, which may be a Box.

    Args:
        network: features and action side by side, `[*B, O + D]`, to `[*B, 1]`; D is the number of elements of an
            action.
        action_spec: the environment's, batch dimensions included; must be a Box.
        batch_dims: how many of the spec's leading dimensions are the environment's batch.
        encoder: from what `in_keys` hold to features `[*B, O]`; by default the observation itself.

    Raises:
        ValueError: any other action spec.
    """

    def __init__(
        self, network: nn.Module, action_spec: TensorSpec, batch_dims: int = 1, encoder: nn.Module | None = None
    ) -> None:
        super().__init__()
        if not isinstance(action_spec, (Bounded, Unbounded)):
            raise ValueError(
                f"ActionValueCritic needs Box actions, got {type(action_spec).__name__}; for Discrete actions there is "
                "QActor"
            )
        self.shape = action_spec.shape[batch_dims:]
        self.in_keys = [*keys_read(encoder), "action"]
        self.out_keys = ["state_action_value"]
        self.network, self.encoder = network, encoder

    def compute(self, *inputs: Tensor) -> tuple[Tensor]:
        """Compute `Q(s, a)`; an action that does not have the spec's shape is a `ValueError`."""
        *entries, action = inputs
        features = entries[0] if self.encoder is None else self.through(self.encoder, *entries)
        batch = action.shape[: action.ndim - len(self.shape)]
        if action.shape[len(batch) :] != self.shape or features.shape[:-1] != batch:
            raise ValueError(
                f"key 'action' has shape {list(action.shape)}, expected {[*features.shape[:-1], *self.shape]} with "
                f"{'key ' + repr(self.in_keys[0]) if self.encoder is None else 'features'} of shape "
                f"{list(features.shape)}, whose last dimension is its features"
            )
        flat = action.reshape(*batch, self.shape.numel()).to(features.dtype)
        together = torch.cat([features, flat], -1)
        return (self.through(self.network, together, beside=", with the action's numbers behind its own,"),)
