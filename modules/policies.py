"""Policies over actions of several parts: MultiDiscrete, MultiBinary, Dict and Tuple; and the policy for any space."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from tensordict import TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor, nn
from torch.distributions import Distribution
from torchrl.data import Binary, Composite, TensorSpec
from torchrl.data import Categorical as CategoricalSpec

from rlpipe.modules.actors import CategoricalActor, GaussianActor, StochasticActor, only_allowed
from rlpipe.modules.base import Keys, check_outputs, kind_of
from rlpipe.modules.choices import Bernoulli, ChoiceLayout, MultiCategorical, nvec_of

if TYPE_CHECKING:
    from typing_extensions import Unpack


class JointDistribution(Distribution):
    """Independent distributions of the entries of a Dict or Tuple action; log-probability and entropy are their sums.

    An action is a nested TensorDict or a dict, with the entries under the same keys; those that are drawn are dicts.

    Args:
        parts: the distribution of each entry by its key.
    """

    arg_constraints: dict[str, torch.distributions.constraints.Constraint] = {}

    def __init__(self, parts: Mapping[NestedKey, Any]) -> None:
        self.parts = dict(parts)
        super().__init__(next(iter(self.parts.values())).batch_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        return all(each.has_rsample for each in self.parts.values())

    @property
    def mode(self) -> dict[NestedKey, Tensor]:  # type: ignore[override]
        return {key: part.mode for key, part in self.parts.items()}

    deterministic_sample = mode

    def draw(self, generator: torch.Generator | None = None) -> dict[NestedKey, Tensor]:
        """One sample from an explicit generator, by key."""
        return {key: part.draw(generator) for key, part in self.parts.items()}

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> dict[NestedKey, Tensor]:  # type: ignore[override]
        return {key: part.sample(torch.Size(sample_shape)) for key, part in self.parts.items()}

    def rsample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> dict[NestedKey, Tensor]:  # type: ignore[override]
        return {key: part.rsample(torch.Size(sample_shape)) for key, part in self.parts.items()}

    def log_prob(self, value: Mapping[NestedKey, Tensor] | TensorDictBase) -> Tensor:
        return functools.reduce(operator.add, [part.log_prob(value[key]) for key, part in self.parts.items()])

    def entropy(self) -> Tensor:
        return functools.reduce(operator.add, [part.entropy() for part in self.parts.values()])


class MultiCategoricalActor(StochasticActor):
    """Independent softmax policies over the numbers of a MultiDiscrete action of any shape.

    Args:
        network: what `in_keys` hold to logits `[*B, sum(nvec)]`, those of each number side by side, in row-major order.
        action_spec: the environment's, batch dimensions included; must be MultiDiscrete (a `MultiCategorical`).
        generator: draws the samples; `None` is PyTorch's global one.
        masked: read `action_mask` `[*B, sum(nvec)]`, laid out as the logits; a forbidden value has probability 0, and
            a number of which all are forbidden is free.
        batch_dims: how many of the spec's leading dimensions are the environment's batch.
        keys: `in_keys` and `out_keys`, see `TensorModule`.

    Raises:
        ValueError: any other action spec, or keys of another number.
    """

    def __init__(
        self,
        network: nn.Module,
        action_spec: TensorSpec,
        generator: torch.Generator | None = None,
        masked: bool = False,
        batch_dims: int = 1,
        **keys: Unpack[Keys],
    ) -> None:
        super().__init__(network, generator, masked, **keys)
        if not isinstance(action_spec, CategoricalSpec):
            raise ValueError(f"MultiCategoricalActor needs MultiDiscrete actions, {_instead(action_spec)}")
        nvec = nvec_of(action_spec, batch_dims)
        self.shape, self.layout = nvec.shape, ChoiceLayout(nvec)

    def from_outputs(self, outputs: Tensor, mask: Tensor | None = None) -> MultiCategorical:
        logits = check_outputs(self, outputs, self.layout.total, "one for each value of each choice")
        # beyond a number's own values the grid is minus infinity, whatever its mask
        grid = self.layout.spread(logits, -torch.inf)
        return MultiCategorical(
            only_allowed(grid, None if mask is None else self.layout.spread(mask, False)), self.shape
        )


class BernoulliActor(StochasticActor):
    """Independent zeros and ones of a MultiBinary action of any shape.

    Args:
        network: what `in_keys` hold to logits `[*B, D]`, D the number of elements of an action.
        action_spec: the environment's, batch dimensions included; must be MultiBinary (a `Binary`).
        generator: draws the samples; `None` is PyTorch's global one.
        batch_dims: how many of the spec's leading dimensions are the environment's batch.
        keys: `in_keys` and `out_keys`, see `TensorModule`.

    Raises:
        ValueError: any other action spec, or keys of another number.
    """

    def __init__(
        self,
        network: nn.Module,
        action_spec: TensorSpec,
        generator: torch.Generator | None = None,
        batch_dims: int = 1,
        **keys: Unpack[Keys],
    ) -> None:
        super().__init__(network, generator, **keys)
        if not isinstance(action_spec, Binary):
            raise ValueError(f"BernoulliActor needs MultiBinary actions, {_instead(action_spec)}")
        self.shape, self.dtype = action_spec.shape[batch_dims:], action_spec.dtype

    def from_outputs(self, outputs: Tensor, mask: Tensor | None = None) -> Bernoulli:
        logits = check_outputs(self, outputs, self.shape.numel(), "one for each element")
        return Bernoulli(logits.reshape(*logits.shape[:-1], *self.shape), len(self.shape), self.dtype)


class JointActor(StochasticActor):
    """A policy over Dict and Tuple actions, nested ones too: an independent distribution for each entry.

    Writes the entries under `("action", name)`, those of a Tuple as `("action", "0")` and so on, and the sum of their
    log-probabilities as `action_log_prob` `[*B]`.

    Args:
        network: what `in_keys` hold to what the entries' distributions need, side by side in the spec's order: as many
            numbers as `policy_outputs(action_spec)`.
        action_spec: the environment's, batch dimensions included; must be a `Composite`.
        generator: draws the samples; `None` is PyTorch's global one.
        masked: read a flat `action_mask`, those of the entries side by side; all must be Discrete or MultiDiscrete.
        batch_dims: how many of the spec's leading dimensions are the environment's batch.
        state_dependent_std: of Box entries, see `GaussianActor`.
        keys: `in_keys` and `out_keys`, see `TensorModule`.

    Raises:
        ValueError: any other action spec, a mask for an entry that takes none, or keys of another number.
    """

    def __init__(
        self,
        network: nn.Module,
        action_spec: TensorSpec,
        generator: torch.Generator | None = None,
        masked: bool = False,
        batch_dims: int = 1,
        state_dependent_std: bool = False,
        **keys: Unpack[Keys],
    ) -> None:
        if not isinstance(action_spec, Composite):
            raise ValueError(f"JointActor needs Dict or Tuple actions, {_instead(action_spec)}")
        leaves = dict(_entry(action_spec).items(True, True))
        actions: list[NestedKey] = [("action", *([key] if isinstance(key, str) else key)) for key in leaves]
        super().__init__(network, generator, masked, actions, **keys)
        self.names: list[NestedKey] = list(leaves)
        self.sizes = [policy_outputs(leaf, batch_dims, state_dependent_std) for leaf in leaves.values()]
        self.parts = nn.ModuleList(
            stochastic_actor(nn.Identity(), leaf, None, masked, batch_dims, state_dependent_std)
            for leaf in leaves.values()
        )

    def from_outputs(self, outputs: Tensor, mask: Tensor | None = None) -> JointDistribution:
        chunks = check_outputs(self, outputs, sum(self.sizes), "policy_outputs(action_spec)").split(self.sizes, -1)
        masks = [None] * len(chunks) if mask is None else mask.split(self.sizes, -1)
        parts = cast("Iterable[StochasticActor]", self.parts)
        each = zip(self.names, parts, chunks, masks, strict=True)
        return JointDistribution({name: part.from_outputs(chunk, its) for name, part, chunk, its in each})

    def compute(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        action, log_prob = self.choose(self.distribution(*inputs))
        return *action.values(), log_prob


def policy_outputs(action_spec: TensorSpec, batch_dims: int = 1, state_dependent_std: bool = False) -> int:
    """How many numbers the network of `stochastic_actor` gives for these actions.

    A Box takes one for each element, or two with `state_dependent_std`; Discrete and MultiDiscrete one for each value;
    MultiBinary one for each element; Dict and Tuple the sum of their entries'.
    """
    spec = _entry(action_spec)
    if isinstance(spec, Composite):
        return sum(policy_outputs(leaf, batch_dims, state_dependent_std) for leaf in spec.values(True, True))
    if isinstance(spec, CategoricalSpec) and not isinstance(spec, Binary):
        return int(nvec_of(spec, batch_dims).sum())
    both = state_dependent_std and not isinstance(spec, Binary)
    return spec.shape[batch_dims:].numel() * (2 if both else 1)


def stochastic_actor(
    network: nn.Module,
    action_spec: TensorSpec,
    generator: torch.Generator | None = None,
    masked: bool = False,
    batch_dims: int = 1,
    state_dependent_std: bool = False,
    **keys: Unpack[Keys],
) -> StochasticActor:
    """The policy for actions of any kind, over a network that gives `policy_outputs(action_spec)` numbers.

    It is a `CategoricalActor` for Discrete actions, a `MultiCategoricalActor` for MultiDiscrete, a `BernoulliActor` for
    MultiBinary, a `GaussianActor` for a Box, and a `JointActor` for Dict and Tuple, which have one of these an entry.

    Args:
        network: what its `in_keys` hold to `[*B, policy_outputs(action_spec)]`.
        action_spec: `env.full_action_spec`; or `env.action_spec`, which is the same but for a Dict of one entry.
        generator: draws the samples; `None` is PyTorch's global one.
        masked: read `action_mask`; for Discrete and MultiDiscrete actions, and for Dict and Tuple of these.
        batch_dims: how many of the spec's leading dimensions are the environment's batch.
        state_dependent_std: of Box actions, see `GaussianActor`.
        keys: `in_keys` and `out_keys`, see `TensorModule`.

    Raises:
        ValueError: another kind of action, a mask for one that takes none, or keys of another number.
    """
    spec = _entry(action_spec)
    if isinstance(spec, Composite):
        return JointActor(network, action_spec, generator, masked, batch_dims, state_dependent_std, **keys)
    if masked and (isinstance(spec, Binary) or not isinstance(spec, CategoricalSpec)):
        raise ValueError(f"an action_mask is for Discrete and MultiDiscrete actions; this one is {kind_of(spec)}")
    if isinstance(spec, Binary):
        return BernoulliActor(network, spec, generator, batch_dims, **keys)
    if isinstance(spec, CategoricalSpec) and len(spec.shape) > batch_dims:
        return MultiCategoricalActor(network, spec, generator, masked, batch_dims, **keys)
    if isinstance(spec, CategoricalSpec):
        return CategoricalActor(network, spec, generator, masked, **keys)
    return GaussianActor(
        network, spec, generator, batch_dims=batch_dims, state_dependent_std=state_dependent_std, **keys
    )


def _entry(spec: TensorSpec) -> TensorSpec:
    """What is under `"action"` in the spec of all actions; any other spec as it is."""
    return spec["action"] if isinstance(spec, Composite) and set(spec.keys()) == {"action"} else spec


def _instead(spec: TensorSpec) -> str:
    return f"and this one is {kind_of(spec)}; stochastic_actor makes the policy for any kind"
