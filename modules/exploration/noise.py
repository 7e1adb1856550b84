"""Noise added to Box actions, as DDPG and TD3 explore with it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torchrl.data import TensorSpec

from rlpipe.modules.actors import bounds_of, box_shape, exploring
from rlpipe.modules.base import Keys
from rlpipe.modules.exploration.explorer import Explorer
from rlpipe.modules.exploration.schedules import Schedule

if TYPE_CHECKING:
    from typing_extensions import Unpack


class _Noise(Explorer):
    """Adds noise to `action` while exploring, in units of half the action's range, and clips it to the bounds."""

    low: Tensor
    high: Tensor
    unit: Tensor

    def __init__(
        self, action_spec: TensorSpec, schedule: Schedule | float, generator: torch.Generator | None, batch_dims: int
    ) -> None:
        super().__init__(schedule, generator)
        if not callable(schedule) and not 0 <= schedule < math.inf:
            raise ValueError(f"the noise of {type(self).__name__} is {schedule}; allowed is 0 or more")
        self.shape = box_shape(self, action_spec, batch_dims, "EpsilonGreedy")
        low, high = bounds_of(action_spec, self.shape)
        half = high / 2 - low / 2
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("high", high, persistent=False)
        self.register_buffer("unit", torch.where(half.isfinite(), half, 1.0), persistent=False)

    def draw(self, like: Tensor) -> Tensor:
        """Standard normal numbers, as many as `like` has."""
        return torch.empty_like(like).normal_(generator=self.generator)

    def add(self, action: Tensor, noise: Tensor) -> tuple[Tensor]:
        """The noisy action."""
        return (torch.addcmul(action, self.unit.to(action.dtype), noise).clamp(self.low, self.high),)


class GaussianNoise(_Noise):
    """Add independent Gaussian noise to each `action` while exploring, as TD3 does (Fujimoto et al. 2018).

    Put it behind an actor: `TensorDictSequential(DeterministicActor(...), GaussianNoise(...))`. Actions are clipped to
    the bounds. The standard deviation changes only in `advance`, once a batch.

    Args:
        action_spec: the environment's, batch dimensions included; must be a Box of floats.
        std: of the noise, in units of half the action's range: 0.1, as TD3 has, is 0.2 for actions between -2 and 2. In
            a dimension without two finite bounds, in the action's own units. It may be a function of frames and
            finished episodes, such as `Linear(0.3, 0.05, frames=100_000)`.
        generator: draws the noise; `None` is PyTorch's global one.
        batch_dims: how many of the spec's leading dimensions are the environment's batch.
        keys: `in_keys`, in place of `["action"]`, and `out_keys`, see `TensorModule`.

    Raises:
        ValueError: any other action spec, or keys of another number.
    """

    def __init__(
        self,
        action_spec: TensorSpec,
        std: Schedule | float,
        generator: torch.Generator | None = None,
        batch_dims: int = 1,
        **keys: Unpack[Keys],
    ) -> None:
        super().__init__(action_spec, std, generator, batch_dims)
        self.name_keys(["action"], [], ["action"], **keys)

    @property
    def std(self) -> float:
        """The present standard deviation."""
        return self.now()

    def compute(self, action: Tensor) -> tuple[Tensor]:
        return self.add(action, self.draw(action).mul_(self.std)) if exploring() else (action,)


class OrnsteinUhlenbeck(_Noise):
    """Add noise that lasts to each `action` while exploring: the process of Uhlenbeck and Ornstein (1930).

    `x' = x - theta x dt + sigma sqrt(dt) n` with standard normal `n`, as DDPG explores with it (Lillicrap et al. 2016,
    section 7). Each episode of each environment begins at `x = 0`. Long after, the standard deviation is about
    `sigma / sqrt(2 theta)`, 0.37 by default, and steps `1 / (theta dt)` apart, 667, have a correlation of `1 / e`.

    Put it behind an actor: `TensorDictSequential(DeterministicActor(...), OrnsteinUhlenbeck(...))`. Actions are clipped
    to the bounds. Its state is that of each environment, and the counters of `sigma`'s schedule.

    Args:
        action_spec: the environment's, batch dimensions included; must be a Box of floats.
        sigma: in units of half the action's range; in a dimension without two finite bounds, in the action's own units.
            It may be a function of frames and finished episodes, which changes in `advance`, once a batch.
        generator: draws the noise; `None` is PyTorch's global one.
        batch_dims: how many of the spec's leading dimensions are the environment's batch.
        theta: how strongly it is drawn to 0.
        dt: the length of a step; 0.01 is also that of TorchRL and Stable-Baselines3. With 1 the noise forgets within a
            few steps.
        keys: `in_keys`, in place of `["action", "step_count"]`, and `out_keys`, see `TensorModule`. The second entry
            tells the first step of an episode: a whole number `[*B, 1]` that is 0 there, as the `step_count` of
            `make_env` and of TorchRL's `StepCounter`; or a boolean that is true, as the `is_init` of `InitTracker`.

    Raises:
        ValueError: any other action spec, keys of another number, or `theta` or `dt` that are not positive or make
            `theta dt` more than 1.
    """

    carried: Tensor | None = None
    """`x` of each environment, `[*B, *D]`, which acting replaces and never changes in place; `None` before it acts."""

    def __init__(
        self,
        action_spec: TensorSpec,
        sigma: Schedule | float = 0.2,
        generator: torch.Generator | None = None,
        batch_dims: int = 1,
        *,
        theta: float = 0.15,
        dt: float = 0.01,
        **keys: Unpack[Keys],
    ) -> None:
        super().__init__(action_spec, sigma, generator, batch_dims)
        if not (theta > 0 and dt > 0 and theta * dt <= 1):
            raise ValueError(f"theta is {theta} and dt is {dt}; both must be above 0, and theta * dt at most 1")
        self.name_keys(["action", "step_count"], [], ["action"], **keys)
        self.theta, self.dt = theta, dt

    @property
    def sigma(self) -> float:
        """The present `sigma`."""
        return self.now()

    def compute(self, action: Tensor, step: Tensor) -> tuple[Tensor]:
        if not exploring():
            return (action,)
        before = self.carried
        if before is None or before.shape != action.shape:
            before = torch.zeros_like(action)
        batch = action.shape[: action.ndim - len(self.shape)]
        goes_on = (~step if step.dtype is torch.bool else step != 0).reshape((*batch, *[1] * len(self.shape)))
        kept = torch.where(goes_on, before.to(action), 0.0)
        fresh = self.draw(action).mul_(self.sigma * math.sqrt(self.dt))
        self.carried = noise = fresh.add_(kept, alpha=1 - self.theta * self.dt)
        return self.add(action, noise)

    def get_extra_state(self) -> dict[str, Any]:
        return {**super().get_extra_state(), "carried": self.carried}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        super().set_extra_state(state)
        carried = state["carried"]
        known = isinstance(carried, Tensor) and carried.shape[carried.ndim - len(self.shape) :] == self.shape
        if carried is not None and not known:
            raise ValueError(f"carried of exploration is expected to be a tensor [*B, {list(self.shape)}]")
        self.carried = carried
