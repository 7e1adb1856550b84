"""A run that is continued from Python, with its listeners."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlpipe.errors import CheckpointError, ConfigError, shown
from rlpipe.pipelines.config.json_form import checked, config_from_json, made
from rlpipe.pipelines.config.schedules import schedules_of
from rlpipe.pipelines.runs.loggers.loggers import DEFAULT, KINDS, Kind
from rlpipe.pipelines.runs.read import read_description
from rlpipe.pipelines.training.listeners import listener_names
from rlpipe.user_modules import module_of

_FREE = ("total_frames", "ray_address", "eval_envs")
"""Fields that do not change what a run has done so far."""


def read_resumed(folder: Path | str | None, algorithm: str, config: Any) -> dict[str, Any]:
    """The content of a run's `config.json`, for `train(..., resume=True)`.

    Args:
        folder: of the run.
        algorithm: that was asked for.
        config: with the options that were given; whoever names an environment trusts its module.

    Raises:
        ConfigError: there is no folder, or it is a run of another algorithm.
        CheckpointError: the folder is no run.
    """
    if folder is None:
        raise ConfigError("resume is True, and no folder is given; name the folder of the run to continue")
    named = [module_of(each) for each in (config.env_id, *getattr(config, "wrapper", ()))]
    described = read_description(Path(folder), [module for module in named if module])
    if described["algorithm"] != algorithm:
        raise ConfigError(f"run {folder} is one of {described['algorithm']}, and {algorithm} was asked for")
    return described


def configs_of(described: Mapping[str, Any], config: Any, given: Collection[str]) -> tuple[Any, Any]:
    """The config that a run had, and the one to continue it with, which may have more frames.

    Args:
        described: its `config.json`.
        config: a new one, with the options that were given.
        given: the names of these.

    Raises:
        ConfigError: an option is not that of the run.
    """
    before = checked(config_from_json(type(config), described["config"]))
    was, now = (json.loads(json.dumps(dataclasses.asdict(each))) for each in (before, config))
    for values, each in ((was, before), (now, config)):
        # a schedule counts as the value of its field
        values.update({schedule.field: schedule.text for schedule in schedules_of(each)})
    for name in sorted(given):
        if name not in _FREE and was[name] != now[name]:
            raise ConfigError(
                f"{name} is {shown(now[name])}, and the run was started with {shown(was[name])}; leave it out"
            )
    # objects, such as an environment, that the run's file has only names of
    held = {each.name: getattr(before, each.name) for each in dataclasses.fields(before)}
    before = made(type(config), held | {name: getattr(config, name) for name in given if name not in _FREE})
    longer = made(type(config), held | {name: getattr(config, name) for name in given})
    if longer.total_frames < before.total_frames:
        raise ConfigError(
            f"total_frames is {longer.total_frames}, and the run was started with {before.total_frames}; it can only "
            "be raised"
        )
    return checked(before), checked(longer)


def check_listeners(described: Mapping[str, Any], listeners: Sequence[Any]) -> None:
    """Refuse other listeners than those that a run had from Python.

    Raises:
        ConfigError: names those that it had.
    """
    before, now = list(described.get("listeners") or ()), listener_names(listeners)
    if before != now:
        raise ConfigError(
            f"the run had the listeners {', '.join(before) or 'none'}, and now there are {', '.join(now) or 'none'}; "
            "give the same: listeners=[...]"
        )


def loggers_of(described: Mapping[str, Any]) -> tuple[Kind, ...]:
    """The loggers of a run.

    Raises:
        CheckpointError: its `config.json` names one that there is not.
    """
    kinds = described.get("loggers", DEFAULT)
    if not (isinstance(kinds, (list, tuple)) and all(kind in KINDS for kind in kinds)):
        raise CheckpointError("config.json names unknown loggers; add --logger tensorboard")
    return tuple(kinds)
