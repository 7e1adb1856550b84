"""Configs of any class in the form that `config.json` holds, `dataclasses.asdict`, and back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, TypeVar

from rlpipe.errors import ConfigError, first_line, shown
from rlpipe.pipelines.checkpoints.older import completed
from rlpipe.pipelines.config.fields import CheckedConfig, check_fields
from rlpipe.pipelines.config.foreign_names import explain
from rlpipe.pipelines.config.run import settings_of
from rlpipe.pipelines.config.train import TrainConfig

C = TypeVar("C")
NEEDED = {"env_id": "text", "seed": "a whole number", "total_frames": "a whole number"}
"""Fields that every Config has, and what they are."""


def config_from_json(cls: type[C], values: Mapping[str, Any]) -> C:
    """Read a config back from its JSON form.

    Raises:
        ConfigError: an unknown or missing field, or a value that is not allowed.
    """
    names = {each.name for each in dataclasses.fields(cls)}  # type: ignore[arg-type]
    # a Config of the user's has only some of our fields
    values = {name: value for name, value in completed(values).items() if name in names or name in values}
    if wrong := sorted(names ^ set(values)):
        what = "an unknown" if wrong[0] in values else "no"
        # such as one that an older version had
        hint = explain(wrong[0], names, python=True) if wrong[0] in values else ""
        raise ConfigError(f"the config has {what} field {wrong[0]!r}{hint and f'; {hint}'}")
    return made(cls, {name: with_tuples(value) for name, value in values.items()})


def made(cls: type[C], values: Mapping[str, Any]) -> C:
    """A config of these values; what a class of the user's raises on them is a `ConfigError`."""
    try:
        return cls(**values)
    except (ConfigError, MemoryError):
        raise
    except Exception as error:
        raise ConfigError(f"{cls.__qualname__} refuses its values: {first_line(error)}") from error


def checked(config: C) -> C:
    """A config of any class, checked: its types and bounds, that it has what every run needs, and that JSON holds it.

    Raises:
        ConfigError: names the field that is not allowed.
    """
    if isinstance(config, TrainConfig):
        return config
    names = [each.name for each in dataclasses.fields(config)]  # type: ignore[arg-type]
    if missing := [name for name in NEEDED if name not in names]:
        raise ConfigError(f"Config has no field {missing[0]!r}, {NEEDED[missing[0]]}, which every run needs; add it")
    if not isinstance(config, CheckedConfig):
        # the name of an environment that is given as an object, which it holds
        found = {**vars(config), "env_id": settings_of(config).env_id}
        config = made(type(config), {name: found[name] for name in names})
        check_fields(config)
    settings_of(config)
    _check_written(config, names)
    return config


def _check_written(config: Any, names: list[str]) -> None:
    """Refuse values that would not come back from `config.json`."""
    for name in names:
        value = getattr(config, name)
        try:
            same = with_tuples(json.loads(json.dumps(value, allow_nan=False))) == value
        except (TypeError, ValueError):
            same = False
        if not same:
            raise ConfigError(
                f"{name} is {shown(value)}, which config.json cannot hold; allowed are numbers, text, true or false, "
                "none, tuples of them, and a dict of them by names"
            )


def with_tuples(value: Any) -> Any:
    """A JSON value with tuples for lists, but not within an object."""
    return tuple(map(with_tuples, value)) if isinstance(value, list) else value
