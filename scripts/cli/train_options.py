"""The options of `rlpipe train`, and the checkpoint that a run starts from."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from rlpipe.errors import CheckpointError, ConfigError
from rlpipe.pipelines.algorithms.recipes import Recipe
from rlpipe.pipelines.checkpoints.older import completed
from rlpipe.pipelines.runs.loggers.loggers import DEFAULT
from rlpipe.pipelines.runs.read import read_run
from rlpipe.user_modules import module_of

if TYPE_CHECKING:
    from rlpipe.pipelines.config.train import TrainConfig
C = TypeVar("C")
SHAPING_FIELDS = {
    "env_id",
    "wrapper",
    "frame_stack",
    "time_aware",
    "hidden",
    "activation",
    "layer_norm",
    "observation_scale",
    "state_dependent_std",
    "shared_trunk",
    "dueling",
    "baseline",
    "normalize_observation",
    "clip_observation",
    "normalize_reward",
    "bins",
    "bin_low",
    "bin_high",
    "beta",
}
"""Config fields that fix the shape or the meaning of the weights; a run must agree in them to start from another.

An environment's arguments and the repetition of actions may differ, as in a curriculum; the shapes must fit."""


@dataclass(frozen=True)
class Options(Generic[C]):
    """Options of `rlpipe train`; the fields of the recipe's Config are options too."""

    config: C
    run_dir: Path | None = None
    """The new run folder; by default runs/RECIPE/SEED-TIME."""
    start_from: Path | None = None
    """Start with the weights of another run: RUN (its newest checkpoint), RUN@best, or a checkpoint."""
    logger: tuple[str, ...] = DEFAULT
    """Loggers that get the metrics too: tensorboard, wandb, mlflow, several of them, or none."""
    json: bool = False
    """Print the summary as one JSON object."""
    quiet: bool = False
    """Show no progress bar."""
    watch: bool = False
    """Show a live view of the training in the terminal, in place of the progress bar."""
    seeds: str | None = None
    """Train one run for each seed, such as 0-9 or 0,3,7 or 1-3,8; run-dir is then the folder for all of them."""
    jobs: str | None = None
    """Number of seeds to train at once, one process each (by default 1); or ray, to train them as Ray tasks."""


def find_weights(recipe: Recipe, options: Options[TrainConfig]) -> Path | None:
    """The checkpoint that `--start-from` names; `None` without that option.

    Raises:
        CheckpointError: there is no such run, or it is damaged.
        ConfigError: it is a run of another algorithm, or its networks have another shape or meaning.
    """
    path, config = options.start_from, options.config
    if path is None:
        return None
    # the user named the environment to train on, so its modules are trusted
    named = [module_of(each) for each in (config.env_id, *config.wrapper)]
    try:
        described, checkpoint = read_run(path, [module for module in named if module])
    except CheckpointError as error:
        raise CheckpointError(f"start-from {path} cannot be used: {error}") from error
    if described["algorithm"] != recipe.algorithm:
        raise ConfigError(
            f"start-from {path} is a run of {described['algorithm']}, and the recipe {recipe.name} trains "
            f"{recipe.algorithm}"
        )
    now, before = json.loads(json.dumps(dataclasses.asdict(config))), completed(described["config"])
    for field in sorted(SHAPING_FIELDS & set(now)):
        if before.get(field) != now[field]:
            raise ConfigError(
                f"{field} is {now[field]}, and start-from {path} was trained with {before.get(field)}; "
                "they must be the same"
            )

    from rlpipe.pipelines.checkpoints.checkpoint import check_identity, identity

    check_identity(checkpoint, identity(described["algorithm"], described["config"]))
    return checkpoint
