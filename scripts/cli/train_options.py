"""The options of `rlpipe train`, and what a run may start from."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from rlpipe.errors import CheckpointError, ConfigError
from rlpipe.pipelines.algorithms.recipes import Recipe
from rlpipe.pipelines.runs.loggers.loggers import DEFAULT
from rlpipe.pipelines.runs.read import read_run
from rlpipe.user_modules import module_of

if TYPE_CHECKING:
    from rlpipe.pipelines.config.train import TrainConfig
C = TypeVar("C")
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


def find_weights(recipe: Recipe, options: Options[TrainConfig]) -> Path | None:
    path = options.start_from
    return None if path is None else _check_weights(path, recipe, options.config)


def _check_weights(path: Path, recipe: Recipe, config: TrainConfig) -> Path:
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

    from rlpipe.pipelines.checkpoints.checkpoint import check_identity, identity

    check_identity(checkpoint, identity(described["algorithm"], described["config"]))
    return checkpoint
