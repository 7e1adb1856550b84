"""Numbers of a Config that change during training: `clip=linear:0.2:0` in its field `schedule`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from rlpipe.errors import ConfigError, shown
from rlpipe.pipelines.config.fields import MANY, bounds_of, check_number, hints_of
from rlpipe.spelling import did_you_mean

KINDS = ("linear", "cosine", "exponential")
_FORM = "a schedule is KIND:START:END, with :FRAMES or not, such as linear:0.2:0; kinds are linear, cosine, exponential"
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_TEXT = re.compile(rf"([A-Za-z]+):({_NUMBER}):({_NUMBER})(?::([\d_]+))?")


@dataclass(frozen=True)
class NumberSchedule:
    """How a field changes during training.

    Args:
        field: of the Config.
        kind: of `KINDS`.
        start: value at the first frame.
        end: value at the last one.
        frames: after which it stays at its end; `None` for those of the run.
    """

    field: str
    kind: str
    start: float
    end: float
    frames: int | None

    @property
    def text(self) -> str:
        """As an option has it."""
        over = "" if self.frames is None else f":{self.frames}"
        return f"{self.kind}:{self.start:g}:{self.end:g}{over}"


def parse_schedule(text: str) -> NumberSchedule:
    """Read `field=kind:start:end` or `field=kind:start:end:frames`.

    Raises:
        ConfigError: it is of another form.
    """
    field, _, value = text.partition("=")
    found = _TEXT.fullmatch(value)
    if not field.isidentifier():
        raise ConfigError(f"schedule is {shown(text)}; expected FIELD=KIND:START:END, such as clip=linear:0.2:0")
    if found is None or found[1] not in KINDS:
        raise ConfigError(f"{field} is {shown(value)}; {_FORM}")
    kind, start, end = found[1], float(found[2]), float(found[3])
    frames = None if found[4] is None else int(found[4])
    if frames is not None and not 1 <= frames <= MANY:
        raise ConfigError(f"{field} is {value!r}; the frames of a schedule are 1 or more")
    if kind == "exponential" and min(start, end) <= 0:
        raise ConfigError(f"{field} is {value!r}; both ends of an exponential schedule are above 0")
    return NumberSchedule(field, kind, start, end, frames)


def schedules_of(config: Any) -> list[NumberSchedule]:
    """The schedules of a Config; none if it has no field for them."""
    return [parse_schedule(each) for each in getattr(config, "schedule", ())]


def start_schedules(config: Any) -> None:
    """Give each field that has a schedule the value at its start, and check both ends against the field's bounds.

    Raises:
        ConfigError: there is no such field, it holds no number, or an end is not allowed.
    """
    if not isinstance(config.schedule, tuple) or not all(isinstance(each, str) for each in config.schedule):
        raise ConfigError(f"schedule is {shown(config.schedule)}; expected a tuple, such as ('clip=linear:0.2:0',)")
    found: dict[str, NumberSchedule] = {}
    cls: Any = type(config)
    for each in schedules_of(config):
        kind = number_kind(cls, each.field)
        if kind is None:
            numbers = [name for name in hints_of(cls) if number_kind(cls, name)]
            raise ConfigError(f"schedule has {each.field!r}, which is no number; {did_you_mean(each.field, numbers)}")
        if each.field in found:
            raise ConfigError(f"{each.field} has two schedules, {found[each.field].text} and {each.text}")
        for value in (each.start, each.end):
            if kind is int and not value.is_integer():
                raise ConfigError(f"{each.field} is {each.text}; both ends are expected to be whole numbers")
            # a number that falls to its limit comes as close as one likes before
            if value == each.start or value != bounds_of(cls, each.field).get("above"):
                check_number(cls, each.field, value)
        found[each.field] = each
        object.__setattr__(config, each.field, kind(each.start))
    falling = getattr(config, "lr_schedule", "constant")
    if "lr" in found and falling != "constant":
        raise ConfigError(
            f"lr is {found['lr'].text}, and lr_schedule is {falling!r}, which changes it too; set lr_schedule to "
            "'constant' (--lr-schedule constant)"
        )


def number_kind(cls: Any, field: str) -> type | None:
    """`int` or `float` if a field holds one number, or may be `None` instead; else `None`."""
    hint = hints_of(cls).get(field)
    kinds = [each for each in get_args(hint) or (hint,) if each is not type(None)]
    return kinds[0] if kinds in ([int], [float]) else None


def with_schedules(options: Mapping[str, Any], cls: Any, present: Sequence[str] = ()) -> dict[str, Any]:
    """Options with `schedule` in place of numbers that are given as schedules: `clip="linear:0.2:0"`.

    Args:
        options: fields of a Config by name.
        cls: the Config.
        present: its schedules so far; those of fields that are given again are left out.

    Raises:
        ConfigError: the Config has no field `schedule`.
    """
    entries = options.get("schedule", present)
    if not isinstance(entries, (list, tuple)):
        # the Config refuses it
        return dict(options)
    given = {name: value for name, value in options.items() if isinstance(value, str) and number_kind(cls, name)}
    changed = {name: value for name, value in options.items() if name not in given}
    # a field that is given as a number has no schedule any more
    kept = [each for each in entries if str(each).partition("=")[0] not in options]
    if not given:
        return changed if "schedule" in options or len(kept) == len(present) else {**changed, "schedule": tuple(kept)}
    if "schedule" not in {each.name for each in dataclasses.fields(cls)}:
        name, value = next(iter(given.items()))
        raise ConfigError(f"{name} is {value!r}, and Config has no field 'schedule'; let it inherit rlpipe.RunConfig")
    return {**changed, "schedule": (*kept, *(f"{name}={value}" for name, value in given.items()))}
