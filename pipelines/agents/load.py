"""Loading the agent of a run from its folder, to evaluate, draw or export it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from rlpipe.errors import CheckpointError, ConfigError, shown
from rlpipe.pipelines.agents.agent import Agent
from rlpipe.pipelines.agents.environment import check_known, trusted_by, with_environment
from rlpipe.pipelines.algorithms.recipes import Recipe, recipe_of_run
from rlpipe.pipelines.checkpoints.checkpoint import check_identity, identity, load_checkpoint
from rlpipe.pipelines.config.json_form import checked, config_from_json
from rlpipe.pipelines.config.run import settings_of
from rlpipe.pipelines.runs.read import read_run, split_choice
from rlpipe.pipelines.seeding import GlobalRandom, Seeds


def _read_config(recipe: Recipe, described: Mapping[str, Any], checkpoint: Path) -> Any:
    try:
        return checked(config_from_json(recipe.config_class, described["config"]))
    except ConfigError as error:
        raise CheckpointError(f"run {checkpoint.parent.parent}: {error}") from error


def load(path: Any, checkpoint: str | int | None = None, *, env: Any = None, trust: Collection[str] = ()) -> Agent:
    """Load the agent of a run. It holds no open environments.

    Args:
        path: a run folder, for its newest checkpoint; `RUN@best`, for the one of its best evaluation, `RUN@last` or
            `RUN@<frames>`; a checkpoint in a run folder; or what `rlpipe.train` returned.
        checkpoint: of a run folder: `"best"`, `"last"`, or its frames.
        env: the environment, if `config.json` cannot name it: what `env_id` may be, such as a function that makes it,
            or an `EnvConfig`, whose arguments and wrappers are then used too.
        trust: modules and files that its environment and its algorithm may come from; they are imported.

    Raises:
        CheckpointError: the path is no run, or its checkpoint is damaged or of another run, or `env` must be given.
        ConfigError: the environment is not available.
    """
    path = _chosen(path, checkpoint)
    described, found = read_run(path, [*trust, *trusted_by(env)])
    values = described["config"] if env is None else with_environment(described["config"], env)
    check_known(values, path)
    recipe = recipe_of_run(described)
    config = _read_config(recipe, {**described, "config": values}, found)
    settings = settings_of(config)
    check_identity(found, identity(described["algorithm"], described["config"]))
    with GlobalRandom().kept(Seeds(settings.seed).integer("process")):
        torch.set_num_threads(settings.threads)
        with contextlib.closing(recipe.build(to_act(config))) as pipeline:
            # the policy's input depends on the observation statistics as well
            load_checkpoint(found, pipeline.state, {"policy"} | pipeline.statistics())
            # users of the policy open other environments
            opened = getattr(getattr(pipeline.collector, "env", None), "base_env", None)
    return Agent(described["recipe"], config, found, pipeline, opened)


def _chosen(path: Any, checkpoint: str | int | None) -> Path:
    """The path of what `load` is given."""
    folder = getattr(path, "folder", path)
    if not isinstance(folder, (str, os.PathLike)):
        raise ConfigError(f"path is {shown(path)}; expected a run folder, RUN@best, or a checkpoint")
    if checkpoint is None:
        return Path(folder)
    if isinstance(checkpoint, bool) or not isinstance(checkpoint, (str, int)):
        raise ConfigError(f"checkpoint is {shown(checkpoint)}; expected 'best', 'last', or a number of frames")
    run, which = split_choice(Path(folder))
    if which:
        raise ConfigError(f"path is {folder}, which names a checkpoint, and so does {checkpoint!r}; give one of them")
    return run.with_name(f"{run.name}@{checkpoint}")


@contextlib.contextmanager
def trained(path: Path | str, trusted: Collection[str] = (), env: Any = None) -> Iterator[Agent]:
    """As `load`; within the block, PyTorch uses the run's number of threads."""
    agent, threads = load(path, env=env, trust=trusted), torch.get_num_threads()
    torch.set_num_threads(agent.settings.threads)
    try:
        yield agent
    finally:
        torch.set_num_threads(threads)


def to_act(config: Any) -> Any:
    """The config of a pipeline that only acts, see `TrainConfig.to_act`; a user's own Config may have such a method."""
    return config.to_act() if hasattr(config, "to_act") else config
