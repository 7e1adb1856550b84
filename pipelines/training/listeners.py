"""Listeners: functions that are called at the moments of the training loop, and may change what is trained."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tensordict import TensorDictBase
from torch import Tensor

from rlpipe.errors import ConfigError
from rlpipe.pipelines.pipeline import Pipeline
from rlpipe.pipelines.progress import Evaluation, Reporter

MomentStage = Literal["started", "collected", "learned", "evaluated", "checkpointed", "ended"]
TAKEN = ("frames", "returns", "lengths", "seconds", "frames_per_second", "updates")
"""What a line of metrics has besides the scalars."""


@dataclass
class Moment:
    """A moment of the training loop, as a listener sees it.

    Args:
        stage: `started` once, before the first batch, also of a run that is resumed; `collected` after a batch was
            collected and before it is learned from; `learned` after it; `evaluated`; `checkpointed` after a checkpoint
            was written; `ended` after the last batch, unless training is interrupted or fails.
        pipeline: what is trained. Its parts may be changed; what a part looks up at each use, as `gradient_step` does
            `max_norm`, counts from then on.
        frames: environment steps so far, those before a resume and those of this batch included.
        total_frames: to collect; infinite if the collector has no limit.
        updates: gradient steps so far.
        episodes: episodes that have ended so far.
        seconds: of collecting and learning so far.
        run: the run's folder, if there is a run.
        batch: with `collected` and `learned`, the batch `[num_envs, T]`. With `collected` it may be changed, or another
            put in its place; counters and training returns are those of the batch as it was collected.
        scalars: with `learned`, the batch's losses and diagnostics. A listener may add numbers, which are logged.
        evaluation: with `evaluated`, its result.
    """

    stage: MomentStage
    pipeline: Pipeline
    frames: int
    total_frames: float
    updates: int
    episodes: int
    seconds: float
    run: Path | None = None
    batch: TensorDictBase | None = None
    scalars: dict[str, float] = field(default_factory=dict)
    evaluation: Evaluation | None = None


class Listeners:
    """The listeners of a run, and their states as a component of checkpoints.

    Args:
        listeners: functions of one argument, a `Moment`. One with `state_dict` and `load_state_dict` is saved.

    Raises:
        ConfigError: one of them is no function, or can only be saved, or only loaded.
    """

    def __init__(self, listeners: Iterable[Callable[[Moment], object]]) -> None:
        self._listeners = [_checked(each) for each in listeners]
        self._names = [name_of(each) for each in self._listeners]
        self._reporters = [Reporter(*each) for each in zip(self._listeners, self._names, strict=True)]

    def tell(self, moment: Moment) -> str:
        """Call all of them; returns why the run is to end if one asks for that, else nothing."""
        reason = ""
        for name, reporter in zip(self._names, self._reporters, strict=True):
            before = dict(moment.scalars)
            asked = reporter.report(moment)
            reason = reason or asked
            if wrong := _settle(moment.scalars, before):
                reporter.raised = reporter.raised or ConfigError(f"the listener {name} {wrong}")
        return reason

    @property
    def raised(self) -> BaseException | None:
        """What one of them raised."""
        return next((each.raised for each in self._reporters if each.raised is not None), None)

    def state_dict(self) -> dict[str, Any]:
        """The names of all, and the states of those that have one."""
        states = [each.state_dict() if _has_state(each) else None for each in self._listeners]
        return {"names": list(self._names), "states": states}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`; one of other listeners is a `ValueError`."""
        names, states = state["names"], state["states"]
        if names != self._names or len(states) != len(names):
            raise ValueError(f"the run had the listeners {', '.join(map(str, names))}; now {', '.join(self._names)}")
        for listener, name, saved in zip(self._listeners, names, states, strict=True):
            if _has_state(listener) != (saved is not None):
                raise ValueError(f"the listener {name} had {'no' if saved is None else 'a'} state")
            if saved is not None:
                listener.load_state_dict(saved)


def name_of(listener: Any) -> str:
    """The name of a function, or of the class of another object."""
    while isinstance(listener, functools.partial):
        listener = listener.func
    return str(getattr(listener, "__name__", None) or type(listener).__name__)


def listener_names(listeners: Sequence[Any]) -> list[str]:
    """The names of listeners, for `config.json`; refuses what is no function as `Listeners` does."""
    return [name_of(_checked(each)) for each in listeners]


def _checked(listener: Any) -> Any:
    if not callable(listener):
        raise ConfigError(f"a listener is {listener!r}; expected a function of one argument, the moment")
    if hasattr(listener, "state_dict") != hasattr(listener, "load_state_dict"):
        raise ConfigError(f"the listener {name_of(listener)} needs both of state_dict and load_state_dict, or neither")
    return listener


def _has_state(listener: Any) -> bool:
    return hasattr(listener, "state_dict")


def _settle(scalars: dict[str, Any], before: Mapping[str, float]) -> str:
    """Make numbers of what a listener put into scalars; what is none is taken out again, and named."""
    wrong = ""
    for key, value in list(scalars.items()):
        if key in before and value is before[key]:
            continue
        if not isinstance(key, str) or key in TAKEN:
            wrong = f"sets scalars[{key!r}], a name that lines of metrics use themselves; choose another"
        elif _is_number(value):
            scalars[key] = float(value)
            continue
        else:
            wrong = f"sets scalars[{key!r}] to {value!r}; expected a number"
        del scalars[key]
    if missing := before.keys() - scalars.keys():
        scalars.update({key: before[key] for key in missing})
    return " ".join(wrong.split())


def _is_number(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1
    return isinstance(value, (int, float, np.number, np.bool_)) or (isinstance(value, np.ndarray) and value.size == 1)
