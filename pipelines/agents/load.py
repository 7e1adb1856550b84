"""Loading the agent of a run from its folder, to evaluate, draw or export it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tensordict.nn import TensorDictModuleBase
from torchrl.envs import Transform

from rlpipe.errors import CheckpointError, ConfigError
from rlpipe.pipelines.agents.environment import check_known, trusted_by, with_environment
from rlpipe.pipelines.agents.predict import Predictor, State
from rlpipe.pipelines.algorithms.recipes import Recipe, recipe_of_run
from rlpipe.pipelines.checkpoints.checkpoint import check_identity, identity, load_checkpoint
from rlpipe.pipelines.config.json_form import checked, config_from_json
from rlpipe.pipelines.config.run import SessionConfig, settings_of
from rlpipe.pipelines.envs.make import make_env_of_any_size
from rlpipe.pipelines.envs.tensor.env import TensorEnv
from rlpipe.pipelines.envs.vector import VectorEnv
from rlpipe.pipelines.pipeline import Pipeline
from rlpipe.pipelines.runs.read import read_run
from rlpipe.pipelines.seeding import GlobalRandom, Seeds


@dataclass(frozen=True)
class Trained:
    """A run's agent.

    Args:
        recipe: name of the recipe.
        config: of the run.
        checkpoint: that it was loaded from.
        pipeline: rebuilt on the CPU, with the policy and the observation statistics of the checkpoint.
        opened: the environment that the collector was built with, closed, if it shows one.
    """

    recipe: str
    config: Any
    checkpoint: Path
    pipeline: Pipeline
    opened: Any = None

    @property
    def settings(self) -> SessionConfig:
        """What evaluations read of the config; defaults where a user's own Config has no such fields."""
        return settings_of(self.config)

    @property
    def policy(self) -> TensorDictModuleBase:
        """Greedy under `ExplorationType.DETERMINISTIC`."""
        return self.pipeline.policy

    @property
    def transforms(self) -> tuple[Transform, ...]:
        """The transforms of the policy's environment, with the observation statistics of the run."""
        return tuple(self.pipeline.transforms)

    @functools.cached_property
    def environment(self) -> VectorEnv | TensorEnv:
        """The environment that the policy was built for, closed; for its spaces and specs, before transforms."""
        return self.opened if isinstance(self.opened, (VectorEnv, TensorEnv)) else _closed(self.settings)

    def predict(
        self, observation: Any, state: State = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[Any, State]:
        """The action for an observation; arguments and results are those of Stable-Baselines3's `predict`.

        Statistics and bins of the run are applied within, as in evaluations.

        Args:
            observation: as the environment gives it, in NumPy; or a batch, whose arrays have one more dimension in
                front.
            state: what the last call returned; `None` before an episode.
            episode_start: whether this step begins an episode, bool, or `[batch]`; a state is then not used.
            deterministic: take the greedy action; else one is sampled, by generators of the agent's own.

        Returns:
            The action as the environment's `step` takes it, or a batch of them; and the state after this step, a tuple
            of float32 arrays `[*state]` or `[batch, *state]`, or `None` for a policy that does not remember.

        Raises:
            ConfigError: the observation or the state has another form; or a transform of the run's observation spans
                several steps.
        """
        return self._predictor(observation, state, episode_start, deterministic)

    @functools.cached_property
    def _predictor(self) -> Predictor:
        return Predictor(self)


def read_settings(described: Mapping[str, Any], checkpoint: Path) -> SessionConfig:
    """What evaluations read of the config of a run, from the result of `read_run`.

    Raises:
        CheckpointError: a field is missing, unknown or has a value that is not allowed; names the run.
    """
    return settings_of(_read_config(recipe_of_run(described), described, checkpoint))


def _read_config(recipe: Recipe, described: Mapping[str, Any], checkpoint: Path) -> Any:
    try:
        return checked(config_from_json(recipe.config_class, described["config"]))
    except ConfigError as error:
        raise CheckpointError(f"run {checkpoint.parent.parent}: {error}") from error


@contextlib.contextmanager
def trained(path: Path | str, trusted: Collection[str] = (), env: Any = None) -> Iterator[Trained]:
    """Load the agent of a run, without open environments.

    Within the block, PyTorch uses the run's number of threads.

    Args:
        path: a run folder, for its newest checkpoint; `RUN@best`, for the one of its best evaluation, `RUN@last` or
            `RUN@<frames>`; or a checkpoint in a run folder.
        trusted: modules and files that its environment and its algorithm may come from; they are imported.
        env: the environment, if `config.json` cannot name it: what `env_id` may be, such as a function that makes it,
            or an `EnvConfig`, whose arguments and wrappers are then used too.

    Raises:
        CheckpointError: the path is no run, or its checkpoint is damaged or of another run, or `env` must be given.
        ConfigError: the environment is not available.
    """
    described, checkpoint = read_run(Path(path), [*trusted, *trusted_by(env)])
    found = described["config"] if env is None else with_environment(described["config"], env)
    check_known(found, Path(path))
    recipe = recipe_of_run(described)
    config = _read_config(recipe, {**described, "config": found}, checkpoint)
    settings = settings_of(config)
    check_identity(checkpoint, identity(described["algorithm"], described["config"]))
    threads = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    try:
        with GlobalRandom().kept(Seeds(settings.seed).integer("process")):
            pipeline = recipe.build(to_act(config))
        with contextlib.closing(pipeline):
            # the policy's input depends on the observation statistics as well
            load_checkpoint(checkpoint, pipeline.state, {"policy"} | pipeline.statistics())
            # users of the policy open other environments
            opened = getattr(getattr(pipeline.collector, "env", None), "base_env", None)
            pipeline.close()
            yield Trained(described["recipe"], config, checkpoint, pipeline, opened)
    finally:
        torch.set_num_threads(threads)


def _closed(settings: SessionConfig) -> VectorEnv | TensorEnv:
    """The environment of a run whose collector does not show its own."""
    made = make_env_of_any_size(replace(settings.env, num_envs=1, backend="auto"))
    made.close(raise_if_closed=False)
    base: VectorEnv | TensorEnv = made.base_env
    return base


def to_act(config: Any) -> Any:
    """The config of a pipeline that only acts, see `TrainConfig.to_act`; a user's own Config may have such a method."""
    return config.to_act() if hasattr(config, "to_act") else config
