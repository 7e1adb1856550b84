"""What a run is: the content of its `config.json`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlpipe.errors import ConfigError
from rlpipe.pipelines.runs.origin import describe_program


@dataclasses.dataclass(frozen=True)
class BuiltFrom:
    """What the run of a recipe is built from.

    Args:
        algorithm: the module in `rlpipe.pipelines.algorithms` that builds it.
        config: its Config.
        environments: how a checkpoint keeps the environments, `captured` or `synchronised`.
        start_from: the run or checkpoint whose weights the run begins with, as the user named it.
        start_digest: of that checkpoint.
        claimed: the run's folder was made already, and is empty.
    """

    algorithm: str
    config: Any
    environments: str | None = None
    start_from: str | None = None
    start_digest: str | None = None
    claimed: bool = False


def describe_run(
    folder: Path, recipe: str, settings: Mapping[str, Any] | None, built_from: BuiltFrom | None, loggers: Sequence[str]
) -> dict[str, Any]:
    """The content of a run's `config.json`.

    Args:
        folder: of the run.
        recipe: its name.
        settings: of a custom run.
        built_from: for the run of a recipe; `None` for a custom run.
        loggers: of the run.

    Raises:
        ConfigError: the settings lack something.
    """
    source = built_from or BuiltFrom(recipe, None)
    return {
        "recipe": recipe,
        "algorithm": source.algorithm,
        "config": _check_settings(settings) if built_from is None else dataclasses.asdict(source.config),
        "start_from": source.start_from,
        "start_digest": source.start_digest,
        "program": describe_program(folder) if built_from is None else None,
        "environments": source.environments,
        "loggers": list(loggers),
    }


def _check_settings(settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """The settings of a custom run, in JSON form.

    Raises:
        ConfigError: `env_id` or `seed` is missing, or a value is not a JSON value.
    """
    values = dict(settings or {})
    for name, kind in (("env_id", str), ("seed", int)):
        if type(values.get(name)) is not kind:
            raise ConfigError(
                f"a custom run needs settings with env_id (text) and seed (a whole number); {name} is "
                f"{values.get(name)!r}"
            )
    try:
        plain: dict[str, Any] = json.loads(json.dumps(values, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"settings must be JSON values (numbers, text, lists, None): {error}") from error
    return plain
