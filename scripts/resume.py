"""`rlpipe resume RUN`: continue a run that was stopped or killed, as if it had never been."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlpipe.errors import CheckpointError, ConfigError
from rlpipe.pipelines.algorithms.recipes import config_class
from rlpipe.pipelines.checkpoints.names import MANIFEST
from rlpipe.pipelines.runs import layout
from rlpipe.pipelines.runs.loggers.loggers import DEFAULT, KINDS, Kind, check_loggers, check_option
from rlpipe.pipelines.runs.read import read_description, split_choice
from rlpipe.scripts.cli.options import parse_run
from rlpipe.scripts.display.progress import display
from rlpipe.scripts.display.summary import describe
from rlpipe.scripts.main import run

USAGE = (
    "usage: rlpipe resume RUN [--total-frames N] [--ray-address HOST:PORT] [--logger NAME ...] "
    "[--trust-module NAME ...] [--json] [--quiet | --watch]\n"
)
_UNCHANGED = ("unchanged",)


@dataclass(frozen=True)
class Options:
    """What `rlpipe resume` takes beside the run."""

    total_frames: int | None = None
    """Train for more environment steps than the run was begun for."""
    ray_address: str | None = None
    """Another address than the run was begun with, `HOST:PORT` of the head of a Ray cluster."""
    logger: tuple[str, ...] = _UNCHANGED
    """Other loggers than the run was begun with: tensorboard, wandb, mlflow, several of them, or none."""
    trust_module: tuple[str, ...] = ()
    """Modules to import, such as the one that the run's environment comes from."""
    json: bool = False
    """Print the summary as one JSON object."""
    quiet: bool = False
    """No progress bar."""
    watch: bool = False
    """A live view of the training in the terminal, in place of the progress bar."""


def main(arguments: Sequence[str]) -> int:
    """Continue a run from its newest complete checkpoint, and print the summary."""
    if not arguments:
        print(USAGE, end="")
        return 0
    description = "RUN is a run folder; it is continued from its newest complete checkpoint, with its own config."
    folder, options = parse_run(Options, arguments, usage=USAGE, prog="rlpipe resume RUN", description=description)
    if (folder / MANIFEST).exists():
        raise ConfigError(f"{folder} is a checkpoint; name the run folder that it lies in")
    run_folder, which = split_choice(folder)
    if which:
        raise ConfigError(
            f"{folder} is a checkpoint, and a run is continued from its newest one: rlpipe resume {run_folder}; to "
            f"begin a new run with what it had learned then: rlpipe train RECIPE --start-from {folder}"
        )
    described = read_description(folder, options.trust_module)

    from rlpipe.pipelines.agents.load import check_known, read_end
    from rlpipe.pipelines.config.train import config_from_json

    check_known(described, folder)

    # what is wrong on the command line is said even if nothing is logged any more
    other = None if options.logger == _UNCHANGED else check_option(options.logger)
    config = config_from_json(config_class(described["algorithm"]), described["config"])
    if options.ray_address is not None:
        config = replace(config, ray_address=options.ray_address)
    longer = config if options.total_frames is None else replace(config, total_frames=options.total_frames)
    if longer.total_frames < config.total_frames:
        raise ConfigError(
            f"total_frames is {longer.total_frames}, and {folder} was begun for {config.total_frames}; "
            "it can only be raised"
        )
    shown = display(described["recipe"], longer, watch=options.watch, quiet=options.quiet)
    result, evaluation, by_choice = read_end(folder, described["algorithm"], config)
    if result.stopped_by and not by_choice and longer != config:
        raise ConfigError(f"run {folder} was ended by {result.stopped_by}, which more frames do not change")

    from rlpipe.pipelines.session import Session, summarise

    pictures = (layout.CURVE, *([layout.GIF] if config.gif else []))
    if evaluation is not None and longer == config and all((folder / name).is_file() for name in pictures):
        summary = summarise(described["recipe"], config, result, evaluation, folder)
    else:
        session = Session(
            described["recipe"],
            described["algorithm"],
            longer,
            folder,
            resume=True,
            start_from=described.get("start_from"),
            display=shown,
            loggers=_loggers(folder, described, other),
        )
        summary = session.run()
    print(json.dumps(summary) if options.json else describe(summary))
    return 0


def _loggers(folder: Path, described: dict[str, Any], other: tuple[Kind, ...] | None) -> tuple[Kind, ...]:
    """Those of the run, unless other ones are asked for."""
    if other is not None:
        return check_loggers(other)
    kinds = described.get("loggers", DEFAULT)
    if not (isinstance(kinds, (list, tuple)) and all(kind in KINDS for kind in kinds)):
        raise CheckpointError(f"{folder / layout.CONFIG} names loggers that there are not; add --logger tensorboard")
    return check_loggers(kinds)


if __name__ == "__main__":
    sys.exit(run(["resume", *sys.argv[1:]]))
