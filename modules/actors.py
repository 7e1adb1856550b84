"""Policies over one space of actions: TensorDictModules on TorchRL's key names, built from specs."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from tensordict import TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor, nn
from torchrl.data import Bounded, TensorSpec, Unbounded
from torchrl.data import Categorical as CategoricalSpec
from torchrl.envs.utils import ExplorationType, exploration_type

from rlpipe.modules.base import FINE, Keys, TensorModule, check_outputs, needs_discrete
from rlpipe.modules.distributions import BoxNormal, Categorical, TanhNormal, quadrature

if TYPE_CHECKING:
    from typing_extensions import Unpack


class _OfThread(threading.local):
    explores: bool | None = None


_of_thread = _OfThread()


def exploring() -> bool:
    """Whether modules explore: only under `ExplorationType.RANDOM`, which TorchRL's collectors set."""
    explores = _of_thread.explores
    return exploration_type() is ExplorationType.RANDOM if explores is None else explores


@contextlib.contextmanager
def explores(explore: bool) -> Iterator[None]:
    """Within, modules explore or not in this thread only; TorchRL's exploration type is one of the process."""
    before, _of_thread.explores = _of_thread.explores, explore
    try:
        yield
    finally:
        _of_thread.explores = before


def only_allowed(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Set `scores` `[*B, A]` to minus infinity where `mask` `[*B, A]` forbids an action; `None` allows all.

    A row that forbids all actions, as some environments give after an episode's end, is ignored.
    """
    if mask is None:
        return scores
    return scores.masked_fill(~mask & mask.any(-1, keepdim=True), -torch.inf)


class StochasticActor(TensorModule):
    """Writes `action` and `action_log_prob` `[*B]`: a sample while exploring, else the mode."""

    def __init__(
        self,
        network: nn.Module,
        generator: torch.Generator | None = None,
        masked: bool = False,
        actions: Sequence[NestedKey] = ("action",),
        **keys: Unpack[Keys],
    ) -> None:
        super().__init__()
        self.name_keys(network, ["action_mask"] if masked else [], [*actions, "action_log_prob"], **keys)
        self.network, self.generator, self.masked = network, generator, masked

    @property
    def dist_sample_keys(self) -> list[NestedKey]:
        """The entries of the action; the name is that of TorchRL's `ProbabilisticActor`, whose losses ask for it."""
        return list(self.out_keys_source[:-1])

    @property
    def log_prob_keys(self) -> list[NestedKey]:
        """The entry of the log-probability, as a list; see `dist_sample_keys`."""
        return list(self.out_keys_source[-1:])

    def from_outputs(self, outputs: Tensor, mask: Tensor | None = None) -> Any:
        """The action distribution that the network's outputs describe; each subclass defines it."""
        raise NotImplementedError

    def distribution(self, *inputs: Tensor) -> Any:
        """The action distribution for the entries of `in_keys`."""
        entries, mask = (inputs[:-1], inputs[-1]) if self.masked else (inputs, None)
        return self.from_outputs(self.through(self.network, *entries), mask)

    def pick(self, distribution: Any) -> Any:
        """A sample while exploring, else the mode."""
        return distribution.draw(self.generator) if exploring() else distribution.mode

    def greedy(self, *inputs: Tensor) -> Any:
        """The mode for the entries of `in_keys`, without what only samples need."""
        return self.distribution(*inputs).mode

    def choose(self, distribution: Any) -> tuple[Any, Tensor]:
        """An action, and its log-probability."""
        action = self.pick(distribution)
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
        **keys: Unpack[Keys],
    ) -> None:
        super().__init__(network, generator, masked, **keys)
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
        keys: `in_keys` and `out_keys`, see `TensorModule`.

    Raises:
        ValueError: any other action spec, an action of no numbers, or keys of another number.
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
        **keys: Unpack[Keys],
    ) -> None:
        super().__init__(network, generator, **keys)
        self.shape = box_shape(self, action_spec, batch_dims, "CategoricalActor")
        low, high = bounds_of(action_spec, self.shape)
        self._kind = TanhNormal if is_ordinary(low, high) else BoxNormal
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

    def greedy(self, *inputs: Tensor) -> Tensor:
        outputs = self.through(self.network, *inputs)
        if self.log_std is None or outputs.shape[-1:] != (self.shape.numel(),):
            return self.from_outputs(outputs).mode
        mean = outputs.reshape((*outputs.shape[:-1], *self.shape))
        return self._kind(mean, mean, self.low, self.high).mode

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
            std = F.softplus(raw + self._bias).clamp_min(1e-4).reshape((*flat.shape[:-1], *self.shape))
        mean = flat.reshape((*flat.shape[:-1], *self.shape))
        if self.log_std is not None:
            std = self.log_std.exp().expand_as(mean)
        return self._kind(mean, std, self.low, self.high, self.quadrature)


class DeterministicActor(TensorModule):
    """A policy without chance over Box actions of any shape, as that of DDPG and TD3: writes `action`.

    Its action is the mode of a `GaussianActor` of the same network: what the network gives, squashed by tanh into the
    bounds. A dimension without bounds is what the network gives; one with a single bound is squashed by softplus; where
    both are equal, it is that number. Actions are float32, or float64 where float32 is too coarse.

    Gradients pass through it to the network: `actor.compute(observation)` for the policy loss of Lillicrap et al. 2016,
    equation 6. To explore, put `GaussianNoise` or `OrnsteinUhlenbeck` behind it.

    Args:
        network: what `in_keys` hold to `[*B, D]`, D the number of elements of an action.
        action_spec: the environment's, batch dimensions included; must be a Box of floats.
        batch_dims: how many of the spec's leading dimensions are the environment's batch.
        keys: `in_keys` and `out_keys`, see `TensorModule`.

    Raises:
        ValueError: any other action spec, an action of no numbers, or keys of another number.
    """

    low: Tensor
    high: Tensor
    of_environment = ("low", "high")
    """Buffers that describe the environment; a run that starts from another keeps its own."""

    def __init__(self, network: nn.Module, action_spec: TensorSpec, batch_dims: int = 1, **keys: Unpack[Keys]) -> None:
        super().__init__()
        self.name_keys(network, [], ["action"], **keys)
        self.shape, self.network = box_shape(self, action_spec, batch_dims, "QActor"), network
        low, high = bounds_of(action_spec, self.shape)
        self._kind = TanhNormal if is_ordinary(low, high) else BoxNormal
        self.register_buffer("low", low)
        self.register_buffer("high", high)

    def compute(self, *entries: Tensor) -> tuple[Tensor]:
        outputs = self.through(self.network, *entries)
        flat = check_outputs(self, outputs, self.shape.numel(), f"one for each element of actions {list(self.shape)}")
        u = flat.reshape((*flat.shape[:-1], *self.shape))
        return (self._kind(u, u, self.low, self.high).mode,)


def box_shape(module: nn.Module, spec: TensorSpec, batch_dims: int, for_discrete: str) -> torch.Size:
    """The shape of an action of a Box of floats; any other spec is a `ValueError`, which may name another module."""
    name = type(module).__name__
    if not isinstance(spec, (Bounded, Unbounded)) or not spec.dtype.is_floating_point:
        hint = "pass env.action_spec of an environment of make_env"
        if isinstance(spec, CategoricalSpec):
            hint = f"for Discrete actions there is {for_discrete}"
        raise ValueError(f"{name} needs Box actions of floats, got {type(spec).__name__} of {spec.dtype}; {hint}")
    shape = spec.shape[batch_dims:]
    if not shape.numel():
        raise ValueError(f"{name} needs an action of numbers, got one of shape {list(shape)}")
    return shape


def is_ordinary(low: Tensor, high: Tensor) -> bool:
    """Whether bounds are finite and apart in each dimension."""
    return bool((low.isfinite() & high.isfinite() & (high / 2 - low / 2 > 0)).all())


def half_ranges(low: Tensor, high: Tensor) -> Tensor:
    """Half the range of each element of an action, 1 where it has no two finite bounds that are apart, `[*D]`."""
    half = high / 2 - low / 2
    return torch.where(half.isfinite() & (half > 0), half, 1.0)


def bounds_of(spec: TensorSpec, shape: torch.Size) -> tuple[Tensor, Tensor]:
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
