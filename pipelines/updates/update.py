"""The gradient step on a minibatch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor, nn

from rlpipe.kinds import Execution
from rlpipe.pipelines.checkpoints.parts import parts_of, together
from rlpipe.pipelines.updates.recorder import Gradient, make_gradient


def gradient_step(
    loss: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    max_norm: float | None = None,
    max_value: float | None = None,
    after: Sequence[Callable[[], object]] = (),
    execution: Execution = "eager",
    skip_if: Callable[[Mapping[str, Tensor]], object] | None = None,
) -> GradientStep:
    """An update: the loss, its gradient, clipping, the optimiser.

    Args:
        loss: a loss module, ours or TorchRL's; the sum of its `loss*` entries is minimised.
        optimizer: over the loss's parameters. Its groups and their `requires_grad` are read at each step; a parameter
            that requires no gradient is left as it is.
        max_norm: scale the gradient down to this norm over all parameters.
        max_value: clamp each element of the gradient to this magnitude, before the norm is taken.
        after: called after each step, such as a `TargetUpdate`.
        execution: how the gradient is computed, see `make_gradient`; `"recorded"` gives the same numbers in less time.
        skip_if: called with the loss's entries, detached, before the step; if true, the update is skipped: the
            optimiser makes no step, and `after` is not called. `on_policy` then leaves the rest of its epochs out.

    Returns:
        An update; it returns the loss's entries, detached, and `grad_norm` (after `max_value`, before `max_norm`). If
        it is skipped, `updates` in place of `grad_norm`, which is 0. The arguments are its attributes, and may be
        changed at any time.
    """
    return GradientStep(loss, optimizer, max_norm, max_value, after, execution, skip_if)


@dataclass(eq=False)
class GradientStep:
    """What `gradient_step` makes."""

    loss: nn.Module
    optimizer: torch.optim.Optimizer
    max_norm: float | None
    max_value: float | None
    after: Sequence[Callable[[], object]]
    execution: Execution
    skip_if: Callable[[Mapping[str, Tensor]], object] | None
    _parameters: list[nn.Parameter] = field(init=False, repr=False)
    _gradient_of: Callable[[TensorDictBase], Gradient] = field(init=False, repr=False)
    _made_for: tuple[nn.Module, Execution] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._prepare()

    def _prepare(self) -> None:
        self._parameters = _parameters_of(self.optimizer)
        learned = {id(parameter) for parameter in self.loss.parameters()}
        if not any(id(parameter) in learned for parameter in self._parameters):
            raise ValueError(
                f"the optimizer holds no parameter of {type(self.loss).__name__} that takes a gradient; make it over "
                "loss.parameters()"
            )
        self._gradient_of = make_gradient(self.loss, self._parameters, self.execution)
        self._made_for = (self.loss, self.execution)

    def __call__(self, minibatch: TensorDictBase) -> TensorDictBase:
        if self._made_for[0] is not self.loss or self._made_for[1] != self.execution:
            self._prepare()
        parameters = self._parameters
        # in place, because `_gradient_of` reads this list; groups may be added at any time
        parameters[:] = _parameters_of(self.optimizer)
        gradient, terms = self._gradient_of(minibatch)
        if all(grad is None for grad in gradient):
            losses = [key for key in terms if key.startswith("loss")]
            raise ValueError(
                f"{type(self.loss).__name__} gives nothing to minimise: none of its entries {list(terms)} whose name "
                f"begins with 'loss' ({losses}) depends on a parameter that the optimizer holds and that takes a "
                "gradient"
            )
        if self.skip_if is not None and self.skip_if(terms):
            return TensorDict({**terms, "updates": torch.tensor(0)})
        if any(parameter._post_accumulate_grad_hooks for parameter in parameters):
            gradient = [_accumulated(parameter, grad) for parameter, grad in zip(parameters, gradient, strict=True)]
        clipped, norm = _clip([grad for grad in gradient if grad is not None], self.max_norm, self.max_value)
        for parameter, grad in zip(parameters, gradient, strict=True):
            parameter.grad = None if grad is None else next(clipped)
        self.optimizer.step()
        for call in self.after:
            call()
        return TensorDict({**terms, "grad_norm": norm})

    @property
    def in_keys(self) -> list[NestedKey] | None:
        """What the loss says that it reads; `None` if it does not say."""
        keys = getattr(self.loss, "in_keys", None)
        return None if keys is None else list(keys)

    @property
    def held(self) -> dict[str, Any]:
        """The loss, the optimiser, and what of `after` has a state, such as a target update or a schedule."""
        return together({"loss": self.loss, "optimizer": self.optimizer}, *map(parts_of, self.after))


def _parameters_of(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _accumulated(parameter: nn.Parameter, gradient: Tensor | None) -> Tensor | None:
    """The gradient after the hooks that a backward pass would call on the parameter."""
    hooks = parameter._post_accumulate_grad_hooks
    if gradient is None or not hooks:
        return gradient
    parameter.grad = gradient
    for hook in hooks.values():
        hook(parameter)
    return parameter.grad


def _clip(gradient: list[Tensor], max_norm: float | None, max_value: float | None) -> tuple[Iterator[Tensor], Tensor]:
    """The gradient clipped by value and then by norm, and its norm in between. Not in place: tensors may repeat."""
    if not gradient:
        return iter(()), torch.zeros(())
    if max_value is not None:
        gradient = [each.clamp(-max_value, max_value) for each in gradient]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradient)))
    if max_norm is not None:
        # as PyTorch's clip_grad_norm_ has it
        gradient = list(torch._foreach_mul(gradient, (max_norm / (norm + 1e-6)).clamp_max(1.0)))
    return iter(gradient), norm
