"""`rlpipe train RECIPE`: train an agent and write a run folder."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from rlpipe.errors import CheckpointError, ConfigError
from rlpipe.pipelines.claim import default_folder
from rlpipe.pipelines.folder import module_of, read_run
from rlpipe.pipelines.loggers import DEFAULT, check_loggers, check_option
from rlpipe.pipelines.recipes import RECIPES, Recipe, find_recipe, owners_of
from rlpipe.scripts.jobs import main as train_seeds
from rlpipe.scripts.main import run
from rlpipe.scripts.options import parse
from rlpipe.scripts.progress import display
from rlpipe.scripts.resume import main as resume
from rlpipe.scripts.summary import describe

if TYPE_CHECKING:
    from rlpipe.pipelines.config import TrainConfig

C = TypeVar("C")

USAGE = f"""usage: rlpipe train RECIPE [options]

Train an agent by a recipe; rlpipe train RECIPE --help lists the recipe's options.
rlpipe train --resume RUN continues a run, see rlpipe resume --help.
rlpipe train RECIPE --seeds 0-9 --jobs 2 trains ten seeds, two at a time, and sums up their results.

recipes: {", ".join(RECIPES)}
"""


SHAPING_FIELDS = {
    "env_id",
    "hidden",
    "activation",
    "layer_norm",
    "observation_scale",
    "state_dependent_std",
    "shared_trunk",
    "dueling",
    "baseline",
    "normalize_frames",
    "bins",
    "bin_low",
    "bin_high",
    "beta",
}
"""Config fields that say what the weights of a run mean; a run that starts from them must agree."""


@dataclass(frozen=True)
class Options(Generic[C]):
    """What `rlpipe train` takes beside the recipe's Config."""

    config: C
    run_dir: Path | None = None
    """The run folder to make; by default runs/RECIPE/SEED-TIME."""
    start_from: Path | None = None
    """Begin with what a run has learned: RUN for its newest checkpoint, RUN@best, or a checkpoint."""
    logger: tuple[str, ...] = DEFAULT
    """Where metrics go beside the run folder's own files: tensorboard, wandb, mlflow, several of them, or none."""
    json: bool = False
    """Print the summary as one JSON object."""
    quiet: bool = False
    """No progress bar."""
    watch: bool = False
    """A live view of the training in the terminal, in place of the progress bar."""
    seeds: str | None = None
    """Train a run for each of several seeds, such as 0-9 or 0,3,7 or 1-3,8; run-dir is then the folder for them."""
    jobs: str | None = None
    """With seeds: how many of them to train at once, a process each (by default 1); or ray, for tasks of Ray."""


def main(arguments: Sequence[str]) -> int:
    """Train, evaluate, and print a summary."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    if arguments[0] == "--resume":
        return resume(arguments[1:])
    if arguments[0].split("=")[0] == "--algo":
        raise ConfigError("no option is called --algo; the recipe stands in front of the options: rlpipe train ppo")
    if arguments[0].startswith("-"):
        raise ConfigError(
            f"the recipe comes before the options, got {arguments[0]!r}; try: rlpipe train ppo {arguments[0]} ..."
        )
    recipe = find_recipe(arguments[0])
    default = recipe.config()
    options = parse(
        Options[type(default)],  # type: ignore[misc, arg-type]
        arguments[1:],
        prog=f"rlpipe train {recipe.name}",
        description=f"Train by the recipe {recipe.name}: {recipe.summary}.",
        default=Options(default),
        owners=owners_of,
    )
    if options.seeds is not None or options.jobs is not None:
        return train_seeds(recipe, options, arguments[1:], _weights(recipe, options))
    summary = _train(recipe, options)
    print(json.dumps(summary) if options.json else describe(summary))
    return 0


def _train(recipe: Recipe, options: Options[TrainConfig]) -> dict[str, Any]:
    from rlpipe.pipelines.session import Session

    config = options.config
    folder = options.run_dir or default_folder(recipe.name, config.seed)
    if options.run_dir is not None and os.path.lexists(folder):
        raise ConfigError(f"run-dir {folder} exists already; nothing was overwritten, name a new one")
    loggers = check_loggers(check_option(options.logger))
    weights = _weights(recipe, options)
    start_from = None if options.start_from is None else str(options.start_from)
    shown = display(recipe.name, config, watch=options.watch, quiet=options.quiet)
    session = Session(
        recipe.name,
        recipe.algorithm,
        config,
        folder,
        numbered=options.run_dir is None,
        start_from=start_from,
        display=shown,
        loggers=loggers,
    )
    return session.run(weights)


def _weights(recipe: Recipe, options: Options[TrainConfig]) -> Path | None:
    path = options.start_from
    return None if path is None else _find_weights(path, recipe, options.config)


def _find_weights(path: Path, recipe: Recipe, config: TrainConfig) -> Path:
    """The checkpoint to start from, of a run whose networks are those of `config`."""
    # the environment that the user asks to train on is trusted
    try:
        described, checkpoint = read_run(path, [module_of(config.env_id)])
    except CheckpointError as error:
        raise CheckpointError(f"start-from {path} cannot be used: {error}") from error
    if described["algorithm"] != recipe.algorithm:
        raise ConfigError(
            f"start-from {path} is a run of {described['algorithm']}, and the recipe {recipe.name} is one of "
            f"{recipe.algorithm}"
        )
    now = json.loads(json.dumps(dataclasses.asdict(config)))
    for field in sorted(SHAPING_FIELDS & set(now)):
        if described["config"].get(field) != now[field]:
            raise ConfigError(
                f"{field} is {now[field]}, and start-from {path} was trained with {described['config'].get(field)}; "
                "they must be the same"
            )

    from rlpipe.pipelines.checkpoint import check_identity, identity

    check_identity(checkpoint, identity(described["algorithm"], described["config"]))
    return checkpoint


if __name__ == "__main__":
    sys.exit(run(["train", *sys.argv[1:]]))
