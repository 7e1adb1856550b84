"""`rlpipe resume RUN`: continue a run that was stopped or killed."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlpipe.errors import ConfigError
from rlpipe.pipelines.algorithms.recipes import Recipe, recipe_of_run
from rlpipe.pipelines.checkpoints.names import MANIFEST
from rlpipe.pipelines.runs.loggers.loggers import Kind, check_option
from rlpipe.pipelines.runs.read import read_description, split_choice
from rlpipe.scripts.cli.options import RunOptions, parse_run
from rlpipe.scripts.display.progress_bar import describe, display
from rlpipe.scripts.display.starting import starting
from rlpipe.scripts.main import run

DESCRIPTION = "Continue the run folder RUN from its newest complete checkpoint, with its own settings."
_UNCHANGED = ("unchanged",)


@dataclass(frozen=True)
class Options(RunOptions):
    """Options of `rlpipe resume`."""

    total_frames: int | None = None
    """New total number of environment steps, larger than the one that the run was started with."""
    ray_address: str | None = None
    """Address `HOST:PORT` of the head of a Ray cluster, in place of the one that the run was started with."""
    logger: tuple[str, ...] = _UNCHANGED
    """Loggers in place of those that the run was started with: tensorboard, wandb, mlflow, several of them, or none."""
    quiet: bool = False
    """Show no progress bar."""
    watch: bool = False
    """Show a live view of the training in the terminal, in place of the progress bar."""


def main(arguments: Sequence[str]) -> int:
    """Continue a run from its newest complete checkpoint, and print the summary."""
    began = time.perf_counter()
    folder, options = parse_run(Options, arguments, "resume", DESCRIPTION)
    _check_path(folder)
    summary = _resume(folder, read_description(folder, options.trust_module), options, began)
    print(json.dumps(summary) if options.json else describe(summary))
    return 0


def _check_path(folder: Path) -> None:
    """Refuse a checkpoint in place of a run folder."""
    if (folder / MANIFEST).exists():
        raise ConfigError(f"{folder} is a checkpoint; name the run folder that it is in")
    run_folder, which = split_choice(folder)
    if which:
        raise ConfigError(
            f"{folder} is a checkpoint, and a run is continued from its newest one: rlpipe resume {run_folder}; to "
            f"start a new run from this checkpoint: rlpipe train RECIPE --start-from {folder}"
        )


def _resume(folder: Path, described: dict[str, Any], options: Options, began: float) -> dict[str, Any]:
    # a wrong option is an error even if nothing is left to log
    other = None if options.logger == _UNCHANGED else check_option(options.logger)
    recipe = recipe_of_run(described)
    config, longer = _configs(folder, recipe, described, options)
    if names := described.get("listeners"):
        said = f"run {folder} has listeners ({', '.join(map(str, names))})"
        raise ConfigError(f"{said}; continue it from Python: {recipe.resume_from_python(folder)}")

    with starting(f"{described['recipe']}, {folder}", quiet=options.quiet, in_files=True):
        from rlpipe.pipelines.agents.environment import check_known
        from rlpipe.pipelines.session import Session, continue_run
        from rlpipe.pipelines.summary import Stopwatch

        check_known(described["config"], folder)
    session = Session(
        recipe,
        longer,
        folder,
        resume=True,
        start_from=described.get("start_from"),
        display=display(described["recipe"], longer, watch=options.watch, quiet=options.quiet),
        loggers=_loggers(described, other),
        watch=Stopwatch(began),
    )
    return continue_run(session, config)


def _configs(folder: Path, recipe: Recipe, described: dict[str, Any], options: Options) -> tuple[Any, Any]:
    """The config of the run, and the one to continue it with."""
    from rlpipe.pipelines.config.groups import RayConfig
    from rlpipe.pipelines.config.json_form import checked, config_from_json

    config = checked(config_from_json(recipe.config_class, described["config"]))
    if options.ray_address is not None and not isinstance(config, RayConfig):
        raise ConfigError(f"--ray-address {options.ray_address}: the Config of {recipe.algorithm} has no ray_address")
    if options.ray_address is not None:
        config = replace(config, ray_address=options.ray_address)
    longer = config if options.total_frames is None else replace(config, total_frames=options.total_frames)
    if longer.total_frames < config.total_frames:
        raise ConfigError(
            f"total_frames is {longer.total_frames}, and {folder} was started with {config.total_frames}; "
            "it can only be raised"
        )
    return config, longer


def _loggers(described: dict[str, Any], other: tuple[Kind, ...] | None) -> tuple[Kind, ...]:
    """The loggers that the options name, or else those of the run."""
    from rlpipe.pipelines.build.resumed import loggers_of

    return loggers_of(described) if other is None else other


if __name__ == "__main__":
    sys.exit(run(["resume", *sys.argv[1:]]))
