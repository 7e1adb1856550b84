"""Value networks as TensorDictModules: actors that are greedy over action values, and critics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torchrl.data import Bounded, TensorSpec, Unbounded

from rlpipe.modules.actors import exploring, only_allowed
from rlpipe.modules.base import Keys, TensorModule, check_outputs, needs_discrete
from rlpipe.modules.choices import joint_choices

if TYPE_CHECKING:
    from typing_extensions import Unpack


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
        keys: `in_keys` and `out_keys`, see `TensorModule`.

    Raises:
        ValueError: any other action spec, too many combinations, or keys of another number.
    """

    action_space = "categorical"
    writes: tuple[str, ...] = ("action_value", "action", "chosen_action_value")

    def __init__(
        self,
        network: nn.Module,
        action_spec: TensorSpec,
        masked: bool = False,
        tie_breaker: torch.Generator | None = None,
        batch_dims: int = 1,
        **keys: Unpack[Keys],
    ) -> None:
        super().__init__()
        self.joint = joint_choices(action_spec, masked, batch_dims)
        hint = "for Box actions there is GaussianActor"
        self.actions = needs_discrete(self, action_spec, hint) if self.joint is None else self.joint.actions
        self.name_keys(network, ["action_mask"] if masked else [], self.writes, **keys)
        self.network, self.masked, self.generator = network, masked, tie_breaker

    def compute(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        entries, mask = (inputs[:-1], inputs[-1]) if self.masked else (inputs, None)
        return self.choose(check_outputs(self, self.through(self.network, *entries), self.actions), mask)

    def choose(self, values: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """`action_value`, `action` and `chosen_action_value` from the values `[*B, A]` of all actions."""
        if mask is not None and self.joint is not None:
            mask = self.joint.allowed(mask)
        action_value = only_allowed(values, mask)
        chosen, action = action_value.max(-1, keepdim=True)
        if self.generator is not None and exploring():
            lots = torch.rand(action_value.shape, generator=self.generator, device=action_value.device)
            action = lots.masked_fill_(action_value < chosen, -1.0).argmax(-1, keepdim=True)
        action = action.squeeze(-1)
        return action_value, action if self.joint is None else self.joint.at(action), chosen


class QuantileActor(QActor):
    """Greedy actor over the mean of the return's quantiles, Dabney et al. 2018 (QR-DQN), equation 1.

    Writes `quantiles` `[*B, A, N]` too: `quantiles[..., a, i]` is that of the return of action `a` at the level
    `(2 i + 1) / (2 N)`, `i` from 0. `action_value` is their mean; a forbidden action's is minus infinity, and its
    quantiles are as the network gives them. Everything else is as in `QActor`.

    Args:
        network: what `in_keys` hold to `[*B, A * N]`, the quantiles of each action side by side.
        action_spec: the environment's; must be Discrete, MultiDiscrete or MultiBinary.
        quantiles: N, how many for each action; 200 in the paper.
        masked: see `QActor`.
        tie_breaker: see `QActor`.
        batch_dims: how many of the spec's leading dimensions are the environment's batch.
        keys: `in_keys` and `out_keys`, see `TensorModule`.

    Raises:
        ValueError: any other action spec, too many combinations, no quantiles, or keys of another number.
    """

    writes = (*QActor.writes, "quantiles")

    def __init__(
        self,
        network: nn.Module,
        action_spec: TensorSpec,
        quantiles: int = 200,
        masked: bool = False,
        tie_breaker: torch.Generator | None = None,
        batch_dims: int = 1,
        **keys: Unpack[Keys],
    ) -> None:
        super().__init__(network, action_spec, masked, tie_breaker, batch_dims, **keys)
        if quantiles < 1:
            raise ValueError(f"quantiles is {quantiles}; allowed is 1 or more")
        self.quantiles = quantiles

    def compute(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        entries, mask = (inputs[:-1], inputs[-1]) if self.masked else (inputs, None)
        outputs, numbers = self.through(self.network, *entries), self.actions * self.quantiles
        what = f"{self.quantiles} quantiles for each of {self.actions} actions"
        quantiles = check_outputs(self, outputs, numbers, what).unflatten(-1, (self.actions, self.quantiles))
        return *self.choose(quantiles.mean(-1), mask), quantiles


class Critic(TensorModule):
    """State value: writes `state_value` `[*B, 1]`, which `network` gives for what `in_keys` hold.

    Args:
        network: what `in_keys` hold to `[*B, 1]`.
        keys: `in_keys` and `out_keys`, see `TensorModule`.

    Raises:
        ValueError: keys of another number.
    """

    def __init__(self, network: nn.Module, **keys: Unpack[Keys]) -> None:
        super().__init__()
        self.name_keys(network, [], ["state_value"], **keys)
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
        keys: `in_keys`, in place of `["observation"]` or the encoder's, and `out_keys`, see `TensorModule`.

    Raises:
        ValueError: any other action spec, or keys of another number.
    """

    def __init__(
        self,
        network: nn.Module,
        action_spec: TensorSpec,
        batch_dims: int = 1,
        encoder: nn.Module | None = None,
        **keys: Unpack[Keys],
    ) -> None:
        super().__init__()
        if not isinstance(action_spec, (Bounded, Unbounded)):
            raise ValueError(
                f"ActionValueCritic needs Box actions, got {type(action_spec).__name__}; for Discrete actions there is "
                "QActor"
            )
        self.shape = action_spec.shape[batch_dims:]
        self.name_keys(["observation"] if encoder is None else encoder, ["action"], ["state_action_value"], **keys)
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
