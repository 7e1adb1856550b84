"""The options of `rlpipe train`, and the checkpoint that a run starts from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from rlpipe.pipelines.algorithms.recipes import Recipe
from rlpipe.pipelines.config.start import Start, find_start
from rlpipe.pipelines.runs.loggers.loggers import DEFAULT

if TYPE_CHECKING:
    from rlpipe.pipelines.config.train import TrainConfig
C = TypeVar("C")


@dataclass(frozen=True, kw_only=True)
class SeedOptions:
    """What is trained: one run or several, from nothing or from what another run has learned."""

    help_group = "run"

    seeds: str | None = None
    """Train one run for each seed, such as 0-9 or 0,3,7 or 1-3,8; `run_dir` is then the folder for all of them."""
    jobs: str | None = None
    """Number of seeds to train at once, one process each (by default 1); or ray, to train them as Ray tasks."""
    start_from: Path | None = None
    """Start with what another run has learned: RUN (its newest checkpoint), RUN@best, or a checkpoint."""
    take: tuple[str, ...] = ()
    """The parts to take of that run: policy, critic, statistics (of normalisation); by default all that there are."""


@dataclass(frozen=True)
class Options(SeedOptions, Generic[C]):
    """Options of `rlpipe train`; the fields of the recipe's Config are options too."""

    help_group = "output"

    config: C
    """A file of options in JSON or YAML, or a run's config.json; options on the command line win over it."""
    run_dir: Path | None = None
    """The new run folder; by default runs/RECIPE/SEED-TIME."""
    logger: tuple[str, ...] = DEFAULT
    """Loggers that get the metrics too: tensorboard, wandb, mlflow, several of them, or none."""
    json: bool = False
    """Print the summary as one JSON object."""
    quiet: bool = False
    """Show no progress bar."""
    watch: bool = False
    """Show a live view of the training in the terminal, in place of the progress bar."""
    trust_module: tuple[str, ...] = ()
    """Python modules or files that the file of `--config` may name; they are imported first."""
    print_config: bool = False
    """Print all options, as a file for `--config` in JSON, and train nothing."""


def find_weights(recipe: Recipe, options: Options[TrainConfig]) -> Start | None:
    """What `--start-from` and `--take` name; see `find_start`."""
    return find_start(options.start_from, options.take, options.config, recipe=recipe.name, algorithm=recipe.algorithm)
