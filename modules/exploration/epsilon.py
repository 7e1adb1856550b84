"""Epsilon-greedy exploration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torchrl.data import TensorSpec

from rlpipe.modules.actors import exploring, only_allowed
from rlpipe.modules.base import Keys, needs_discrete
from rlpipe.modules.choices import joint_choices
from rlpipe.modules.exploration.explorer import Explorer
from rlpipe.modules.exploration.schedules import Schedule

if TYPE_CHECKING:
    from typing_extensions import Unpack


class EpsilonGreedy(Explorer):
    """Replace each `action` by a uniformly random one with probability epsilon, while exploring.

    Put it behind a greedy actor: `TensorDictSequential(q_actor, EpsilonGreedy(...))`. Epsilon changes only in
    `advance`, once a batch. Its state is two counters: frames and finished episodes.

    Args:
        action_spec: the environment's; must be Discrete, MultiDiscrete or MultiBinary.
        schedule: epsilon as a function of frames and finished episodes; or a number.
        generator: draws which actions are replaced, and by what; `None` is PyTorch's global one.
        masked: read `action_mask` `[*B, A]`, or flat `[*B, sum(nvec)]`, and draw among the allowed actions only.
        batch_dims: how many of the spec's leading dimensions are the environment's batch.
        keys: `in_keys`, in place of `["action"]`, and `out_keys`, see `TensorModule`.

    Raises:
        ValueError: any other action spec, more than 1,024 combinations, or keys of another number.
    """

    def __init__(
        self,
        action_spec: TensorSpec,
        schedule: Schedule | float,
        generator: torch.Generator | None = None,
        masked: bool = False,
        batch_dims: int = 1,
        **keys: Unpack[Keys],
    ) -> None:
        super().__init__(schedule, generator)
        self.joint = joint_choices(action_spec, masked, batch_dims)
        hint = "a policy over Box actions, such as GaussianActor, has its own"
        self.actions = needs_discrete(self, action_spec, hint) if self.joint is None else self.joint.actions
        self.name_keys(["action"], ["action_mask"] if masked else [], ["action"], **keys)
        self.masked = masked

    @property
    def epsilon(self) -> float:
        """The present probability of a random action."""
        return self.now()

    def compute(self, action: Tensor, mask: Tensor | None = None) -> tuple[Tensor]:
        if not exploring():
            return (action,)
        batch = action.shape if self.joint is None else action.shape[: action.ndim - len(self.joint.shape)]
        random = self._draw(batch, mask, action.device)
        replaced = torch.rand(batch, generator=self.generator, device=action.device) < self.epsilon
        if self.joint is not None:
            random, replaced = self.joint.at(random), replaced.reshape(*batch, *[1] * len(self.joint.shape))
        return (torch.where(replaced, random, action),)

    def _draw(self, batch: torch.Size, mask: Tensor | None, device: torch.device) -> Tensor:
        """Numbers of actions, `[*B]`."""
        if mask is None:
            return torch.randint(self.actions, batch, generator=self.generator, device=device)
        if self.joint is not None:
            mask = self.joint.allowed(mask)
        lots = torch.rand(mask.shape, generator=self.generator, device=device)
        return only_allowed(lots, mask).argmax(-1)
