"""Numbers that change during training, as functions of its frames."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn
from torchrl.objectives import LossModule

from rlpipe.errors import ConfigError
from rlpipe.pipelines.training.listeners import TAKEN, Moment
from rlpipe.spelling import did_you_mean

_COUNTS = ("epochs", "updates", "every", "n", "warmup")
"""Names of whole numbers."""


def schedule(
    target: Any, name: str, value_of: Callable[[int, int], float], *, label: str | None = None
) -> Callable[[Moment], None]:
    """A listener that sets the number `target.name` before each batch is collected.

    The number is a function of the frames and episodes so far, so that a resumed run has it too, and it is logged with
    the metrics of the batch. In a loss it becomes a tensor `[]` that changes in place, so that a recording of the loss
    (`execution="recorded"`) stays valid.

    Args:
        target: a loss, such as `ClipPPOLoss` for `clip`; an optimiser, of which all groups change (`lr`, `eps`); or any
            other object with such a number, such as `GAE`, `TargetUpdate`, or what `gradient_step` returns
            (`max_norm`). Those that count, such as `epochs`, are rounded.
        name: of the number.
        value_of: from frames and finished episodes to the value, such as `Linear(0.2, 0.0, frames=1_000_000)` of
            `rlpipe.modules`.
        label: in the metrics; by default the name.

    Raises:
        ConfigError: the target has no such number; or in training, the value is not finite.
    """
    return _Schedule(target, name, value_of, label or name)


class _Schedule:
    def __init__(self, target: Any, name: str, value_of: Callable[[int, int], float], label: str) -> None:
        _check(target, name)
        self._target, self._name, self._value_of, self.label = target, name, value_of, label
        self.__name__, self._value = f"schedule({label})", 0.0

    def __call__(self, moment: Moment) -> None:
        # such as `updates`, of which a batch may have had none
        if moment.stage == "learned" and self.label not in TAKEN:
            # `epochs` that were made count, and not those that were planned
            moment.scalars.setdefault(self.label, self._value)
        if moment.stage in ("started", "learned"):
            value = float(self._value_of(moment.frames, moment.episodes))
            if not math.isfinite(value):
                raise ConfigError(f"the schedule of {self.label} gives {value} at frame {moment.frames}")
            self._value = round(value) if self._name in _COUNTS else value
            set_number(self._target, self._name, self._value)


def set_number(target: Any, name: str, value: float) -> None:
    """Set a number of an optimiser's groups, of a loss, or of any object."""
    if isinstance(target, torch.optim.Optimizer):
        for group in target.param_groups:
            if isinstance(group[name], Tensor):
                group[name].fill_(value)
            else:
                group[name] = value
        return
    held = getattr(target, name)
    if isinstance(held, Tensor):
        held.detach().fill_(value)
    elif _is_loss(target):
        _hold(target, name, value)
    else:
        setattr(target, name, value)


def _hold(loss: nn.Module, name: str, value: float) -> None:
    """Put a number of a loss into a tensor, on the device and of the type of its parameters."""
    like = next((each for each in loss.parameters() if each.is_floating_point()), torch.zeros(()))
    delattr(loss, name)
    # it is no part of the loss's state
    loss.register_buffer(name, torch.tensor(value, dtype=like.dtype, device=like.device), persistent=False)


def _is_loss(target: Any) -> bool:
    """Whether it may be recorded: a loss of TorchRL or rlpipe, or a plain module."""
    return isinstance(target, LossModule) or (
        isinstance(target, nn.Module) and not isinstance(target, TensorDictModuleBase)
    )


def _check(target: Any, name: str) -> None:
    """Refuse what is no number."""
    kind = type(target).__name__
    if isinstance(target, torch.optim.Optimizer):
        numbers = {key: value for key, value in target.param_groups[0].items() if _is_number(value)}
    else:
        buffers = dict(target.named_buffers(recurse=False)) if isinstance(target, nn.Module) else {}
        numbers = {key: value for key, value in {**_own(target), **buffers}.items() if _is_number(value)}
    if name in numbers:
        return
    if getattr(target, name, 0) is None:
        raise ConfigError(f"{kind} has {name} None; make it with the first value of the schedule")
    raise ConfigError(f"{kind} has no number {name!r}; {did_you_mean(name, numbers)}")


def _own(target: Any) -> dict[str, Any]:
    return {key: value for key, value in getattr(target, "__dict__", {}).items() if not key.startswith("_")}


def _is_number(value: Any) -> bool:
    return (isinstance(value, (int, float)) and not isinstance(value, bool)) or (
        isinstance(value, Tensor) and value.numel() == 1 and value.is_floating_point()
    )
