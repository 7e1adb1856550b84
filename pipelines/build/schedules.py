"""The schedules of a Config's numbers, as listeners."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlpipe.arithmetic import ceil_div
from rlpipe.errors import ConfigError
from rlpipe.pipelines.config.schedules import NumberSchedule, schedules_of
from rlpipe.pipelines.training.listeners import Moment
from rlpipe.pipelines.training.schedules import schedule

Place = Any
"""An object that has the number under the field's name; or a pair of an object and the name there."""


@dataclass(frozen=True)
class Curve:
    """From `start` to `end` over `frames`, then `end`: a function of frames and episodes.

    `linear` is a straight line, `cosine` half a wave, and `exponential` changes by the same factor in each frame.
    """

    kind: str
    start: float
    end: float
    frames: int

    def __call__(self, frames: int, episodes: int) -> float:
        share = min(1.0, frames / self.frames)
        if self.kind == "exponential":
            return self.start * (self.end / self.start) ** share
        if self.kind == "cosine":
            share = (1 - math.cos(math.pi * share)) / 2
        return self.start + (self.end - self.start) * share


def make_schedules(config: Any, numbers: Mapping[str, Place]) -> list[Callable[[Moment], None]]:
    """A listener for each schedule of a Config; `make_pipeline` does this with its `numbers`.

    Args:
        config: its `schedule`, if it has that field, names fields.
        numbers: where the number of each field is used. One that is `None` is used nowhere.

    Raises:
        ConfigError: a field with a schedule is not among the numbers, or used nowhere.
    """
    return [_make(config, each, numbers) for each in schedules_of(config)]


def _make(config: Any, each: NumberSchedule, numbers: Mapping[str, Place]) -> Callable[[Moment], None]:
    if each.field not in numbers:
        can = f"{', '.join(sorted(numbers))} can" if numbers else "this algorithm has none that can"
        raise ConfigError(f"{each.field} is {each.text}, and it cannot change during training; {can}")
    place = numbers[each.field]
    target, name = place if isinstance(place, tuple) else (place, each.field)
    if target is None:
        raise ConfigError(f"{each.field} is {each.text}, and this config does not use it")
    batch = getattr(config, "frames_per_batch", 1)
    whole = ceil_div(config.total_frames, batch) * batch
    curve = Curve(each.kind, each.start, each.end, each.frames or whole)
    return schedule(target, name, curve, label=each.field)


def check_scheduled(config: Any, listeners: Sequence[Any]) -> None:
    """Refuse a Config with a schedule that none of a pipeline's listeners follows.

    Raises:
        ConfigError: names the field, and what to add.
    """
    followed = [getattr(each, "label", None) for each in listeners]
    for each in schedules_of(config):
        if each.field not in followed:
            raise ConfigError(
                f"{each.field} is {each.text}, and build makes no schedule of it; give make_pipeline "
                f"numbers={{{each.field!r}: the object that has it}}, or Pipeline listeners=make_schedules(config, ...)"
            )
