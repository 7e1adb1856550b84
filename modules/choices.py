"""Several choices at once, MultiDiscrete and MultiBinary: their layout, their distributions, their joint actions."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution
from torchrl.data import Binary, TensorSpec
from torchrl.data import Categorical as CategoricalSpec
from torchrl.data import MultiCategorical as MultiCategoricalSpec

from rlpipe.modules.base import kind_of
from rlpipe.modules.distributions import Categorical

MOST_JOINT = 1024
"""Joint actions of which each can have its own value: the last layer stays as small as the others, and exploration
still tries each one. Beyond, the choices are better made one by one, as a policy does."""


def nvec_of(spec: CategoricalSpec, batch_dims: int) -> Tensor:
    """How many values each of its numbers can have: int64 `[*shape]`, without the batch dimensions."""
    shape = spec.shape[batch_dims:]
    if isinstance(spec, MultiCategoricalSpec):
        return spec.nvec.reshape(-1, *shape)[0].long().cpu()
    return torch.full(shape, int(spec.space.n))


class ChoiceLayout(nn.Module):
    """Spreads flat scores or masks of K choices, side by side, over a grid with a row for each choice.

    Args:
        nvec: how many options each choice has, of any shape with K elements, in row-major order.
    """

    places: Tensor
    outside: Tensor

    def __init__(self, nvec: Tensor) -> None:
        super().__init__()
        sizes = nvec.flatten()
        self.choices, self.most, self.total = len(sizes), int(sizes.max()), int(sizes.sum())
        self._even = self.total == self.choices * self.most
        columns = torch.arange(self.most)
        outside = columns >= sizes.unsqueeze(-1)
        places = (sizes.cumsum(0) - sizes).unsqueeze(-1) + columns
        self.register_buffer("outside", outside, persistent=False)
        self.register_buffer("places", places.masked_fill(outside, 0).flatten(), persistent=False)

    def spread(self, flat: Tensor, fill: float) -> Tensor:
        """`[*B, sum(nvec)]` to `[*B, K, max(nvec)]`; places that a choice does not have become `fill`."""
        grid = (*flat.shape[:-1], self.choices, self.most)
        if self._even:
            return flat.reshape(grid)
        spread = flat.index_select(-1, self.places).reshape(grid)
        # onnxruntime cannot fill booleans
        return spread & ~self.outside if flat.dtype is torch.bool else spread.masked_fill(self.outside, fill)


class MultiCategorical(Distribution):
    """Independent `Categorical`s, for MultiDiscrete actions: the log-probability and the entropy are their sums.

    Args:
        logits: of each choice, `[*B, K, N]`; minus infinity where it has fewer than N options.
        shape: of an action, K elements in row-major order.
    """

    arg_constraints: dict[str, torch.distributions.constraints.Constraint] = {}

    def __init__(self, logits: Tensor, shape: torch.Size) -> None:
        self.each = Categorical(logits)
        super().__init__(logits.shape[:-2], shape, validate_args=False)

    @property
    def mode(self) -> Tensor:
        return self.each.mode.reshape(self._extended_shape())

    deterministic_sample = mode

    def draw(self, generator: torch.Generator | None = None) -> Tensor:
        """One sample from an explicit generator, int64 `[*B, *shape]`."""
        return self.each.draw(generator).reshape(self._extended_shape())

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        sample_shape = torch.Size(sample_shape)
        return self.each.sample(sample_shape).reshape(self._extended_shape(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        batch = value.shape[: value.ndim - len(self.event_shape)]
        logits = self.each.logits.expand(*batch, *self.each.logits.shape[-2:])
        return logits.gather(-1, value.reshape(*batch, -1, 1)).squeeze(-1).sum(-1)

    def entropy(self) -> Tensor:
        return self.each.entropy().sum(-1)


class Bernoulli(Distribution):
    """Independent zeros and ones, for MultiBinary actions: 1 with probability `sigmoid(logit)`.

    Args:
        logits: `[*B, *shape]`.
        dims: how many dimensions an action has.
        dtype: of actions.
    """

    arg_constraints: dict[str, torch.distributions.constraints.Constraint] = {}

    def __init__(self, logits: Tensor, dims: int = 1, dtype: torch.dtype = torch.int8) -> None:
        self.logits, self.dtype = logits, dtype
        split = logits.ndim - dims
        super().__init__(logits.shape[:split], logits.shape[split:], validate_args=False)

    @property
    def mode(self) -> Tensor:
        return (self.logits > 0).to(self.dtype)

    deterministic_sample = mode

    def draw(self, generator: torch.Generator | None = None) -> Tensor:
        """One sample from an explicit generator, `[*B, *shape]`."""
        return self._from(torch.empty_like(self.logits).uniform_(generator=generator))

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        return self._from(torch.rand((*sample_shape, *self.logits.shape)).to(self.logits))

    def _from(self, uniform: Tensor) -> Tensor:
        return (uniform < self.logits.sigmoid()).to(self.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        # log sigmoid of the logit for a one, of its negative for a zero
        return self._sum(-F.softplus(self.logits * (1.0 - 2.0 * value.to(self.logits.dtype))))

    def entropy(self) -> Tensor:
        one = self.logits.sigmoid()
        return self._sum(one * F.softplus(-self.logits) + (1.0 - one) * F.softplus(self.logits))

    def _sum(self, values: Tensor) -> Tensor:
        """Over the dimensions of an action: `[*B, *shape]` to `[*B]`."""
        return values.sum(tuple(range(-len(self.event_shape), 0))) if self.event_shape else values


class JointChoices(nn.Module):
    """Numbers the joint actions of a MultiDiscrete or MultiBinary space, as DQN values them.

    The last choice changes fastest.

    Args:
        spec: of the action, batch dimensions included.
        batch_dims: how many of its leading dimensions are the environment's batch.

    Raises:
        ValueError: there are more than `MOST_JOINT` joint actions.
    """

    table: Tensor
    radix: Tensor
    places: Tensor

    def __init__(self, spec: CategoricalSpec, batch_dims: int = 1) -> None:
        super().__init__()
        nvec = nvec_of(spec, batch_dims)
        sizes = nvec.flatten().tolist()
        self.shape, self.dtype = nvec.shape, spec.dtype
        # in Python, because the product may exceed int64
        self.actions = math.prod(sizes)
        if self.actions > MOST_JOINT:
            raise ValueError(
                f"the {kind_of(spec)} actions have {self.actions:,} combinations; a network that values each of them "
                f"takes at most {MOST_JOINT:,}"
            )
        self.layout = ChoiceLayout(nvec)
        parts = torch.cartesian_prod(*map(torch.arange, sizes)).reshape(self.actions, len(sizes))
        rows = torch.arange(len(sizes)) * self.layout.most
        radix = torch.tensor([*sizes[1:], 1]).flip(0).cumprod(0).flip(0)
        self.register_buffer("table", parts.reshape(self.actions, *nvec.shape).to(spec.dtype), persistent=False)
        self.register_buffer("radix", radix, persistent=False)
        self.register_buffer("places", (parts + rows).flatten(), persistent=False)

    def at(self, index: Tensor) -> Tensor:
        """The actions `[*B, *shape]` of the numbers `[*B]`."""
        return self.table[index]

    def index(self, action: Tensor) -> Tensor:
        """The numbers `[*B]` of actions `[*B, *shape]`."""
        batch = action.shape[: action.ndim - len(self.shape)]
        return (action.reshape(*batch, len(self.radix)) * self.radix).sum(-1)

    def allowed(self, mask: Tensor) -> Tensor:
        """The joint actions `[*B, J]` that a mask `[*B, sum(nvec)]` allows; a choice that has none left is free."""
        grid = self.layout.spread(mask, False)
        grid = grid | ~grid.any(-1, keepdim=True)
        chosen = grid.flatten(-2).index_select(-1, self.places)
        return chosen.reshape(*mask.shape[:-1], self.actions, len(self.radix)).all(-1)


def joint_choices(spec: TensorSpec, masked: bool, batch_dims: int) -> JointChoices | None:
    """The joint actions of a MultiDiscrete or MultiBinary space; `None` for any other.

    Raises:
        ValueError: they are too many, or the space takes no mask.
    """
    if not isinstance(spec, (MultiCategoricalSpec, Binary)):
        return None
    if masked and isinstance(spec, Binary):
        raise ValueError(f"an action_mask is for Discrete and MultiDiscrete actions; this one is {kind_of(spec)}")
    return JointChoices(spec, batch_dims)
