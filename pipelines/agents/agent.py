"""A trained agent: acts, is evaluated, drawn and exported."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tensordict.nn import TensorDictModuleBase
from torchrl.envs import Transform

from rlpipe.errors import CheckpointError, ConfigError
from rlpipe.pipelines.agents.environment import check_known, closed_env, evaluated_in, with_environment
from rlpipe.pipelines.agents.export import export
from rlpipe.pipelines.agents.export_files import Format, check_new, format_of
from rlpipe.pipelines.agents.film import as_json, player_of
from rlpipe.pipelines.agents.limits import check_evaluation, check_film
from rlpipe.pipelines.agents.predict import Predictor, State
from rlpipe.pipelines.algorithms.recipes import recipe_of_run
from rlpipe.pipelines.checkpoints.checkpoint import check_identity, identity, load_checkpoint
from rlpipe.pipelines.collectors.evaluation import evaluate, most_copies
from rlpipe.pipelines.config.json_form import checked, config_from_json
from rlpipe.pipelines.config.run import SessionConfig, settings_of
from rlpipe.pipelines.envs.tensor.env import TensorEnv
from rlpipe.pipelines.envs.vector import VectorEnv
from rlpipe.pipelines.pipeline import Pipeline
from rlpipe.pipelines.progress import Evaluation
from rlpipe.pipelines.render.captions import SIZE
from rlpipe.pipelines.render.film import check_movie
from rlpipe.pipelines.render.player import HOLD, MAX_STEPS, record
from rlpipe.pipelines.seeding import GlobalRandom, Seeds


@dataclass(frozen=True, repr=False, eq=False)
class Agent:
    """What a run has learned, loaded by `rlpipe.load`. It holds no open environments.

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

    def __repr__(self) -> str:
        return f"<Agent of {self.recipe} on {self.settings.env_id}, from {self.checkpoint}>"

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
        return self.opened if isinstance(self.opened, (VectorEnv, TensorEnv)) else closed_env(self.settings.env)

    def predict(
        self, observation: Any, state: State = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[Any, State]:
        """The action for an observation; arguments and results are those of Stable-Baselines3's `predict`.

        Statistics and bins of the run are applied within, as in evaluations. It may be called while another thread
        trains.

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

    def evaluate(
        self,
        episodes: int = 100,
        *,
        seed: int | None = None,
        env: Any = None,
        deterministic: bool = True,
        eval_envs: int | None = None,
    ) -> Evaluation:
        """Play whole episodes, as `rlpipe evaluate` does.

        Args:
            episodes: how many.
            seed: of the resets, and of sampled actions; by default that of the run's final evaluation.
            env: another environment with the same spaces, anything that `env_id` may be; or an `EnvConfig`.
            deterministic: take the greedy actions; else they are sampled.
            eval_envs: how many environments are open at most; by default as many as in the run.

        Raises:
            ConfigError: a number is not allowed, or the environment is not available or has other spaces.
        """
        check_evaluation(episodes=episodes, seed=seed, eval_envs=eval_envs)
        settings = self.settings
        config = settings.eval_env if env is None else evaluated_in(env, settings.eval_env, self.environment)
        with self.computing():
            return evaluate(
                self.policy,
                config,
                episodes=episodes,
                seed=Seeds(settings.seed).integer("final evaluation") if seed is None else seed,
                stochastic=not deterministic,
                transforms=self.transforms,
                num_envs=most_copies(config, eval_envs or settings.eval_envs, settings.num_envs),
            )

    def render(
        self,
        path: Path | str,
        episodes: int = 1,
        *,
        seed: int | None = None,
        deterministic: bool = True,
        max_steps: int = MAX_STEPS,
        fps: float | None = None,
        hold: float = HOLD,
        size: int = SIZE,
    ) -> dict[str, Any]:
        """Record episodes as a GIF or an MP4, as `rlpipe render` does.

        Args:
            path: the new file; its name ends in `.gif` or `.mp4`.
            episodes: recorded one after the other.
            seed: of the resets, and of sampled actions; by default that of the run's own `agent.gif`.
            deterministic: take the greedy actions; else they are sampled.
            max_steps: cuts an episode.
            fps: steps per second; by default the environment's own rate.
            hold: seconds for which the end of an episode is shown.
            size: longest side of the image in pixels.

        Returns:
            What was drawn, as `rlpipe render --json` prints it.

        Raises:
            ConfigError: the file exists, a number is not allowed, or the environment cannot be drawn here.
            RlpipeError: the file cannot be written.
        """
        out = Path(path)
        check_film(episodes=episodes, seed=seed, fps=fps, hold=hold, size=size, max_steps=max_steps)
        check_movie(out)
        with self.computing():
            player = player_of(self, episodes=episodes, seed=seed, deterministic=deterministic, max_steps=max_steps)
            return as_json(record(player, out, fps=fps, hold=hold, size=size), player, self, out)

    def export(self, path: Path | str, format: Format | None = None) -> dict[str, Any]:  # noqa: A002 - as the option
        """Write the greedy policy to a file that can be used without rlpipe, as `rlpipe export` does.

        Args:
            path: the new file.
            format: `onnx`, `torch` or `safetensors`; by default it follows from the name, `.onnx`, `.pt2` or
                `.safetensors`.

        Returns:
            What was written, as `rlpipe export --json` prints it.

        Raises:
            ConfigError: the file exists, its format is unknown or needs an extra, or the policy cannot be exported.
            RlpipeError: the file cannot be written, or does not act as the policy does.
        """
        out = Path(path)
        kind = format_of(out, format)
        check_new(out, kind)
        with self.computing():
            return export(self, kind, out)

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """Within, PyTorch uses the run's number of threads; afterwards the process is as before."""
        with GlobalRandom().kept():
            threads = self.settings.threads
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
            yield

    @functools.cached_property
    def _predictor(self) -> Predictor:
        return Predictor(self)


def rebuilt(described: Mapping[str, Any], checkpoint: Path, env: Any, asked: Path) -> Agent:
    """The agent of a run, see `load`.

    Args:
        described: the run's `config.json`.
        checkpoint: to load.
        env: in place of an environment that `config.json` cannot name, or `None`.
        asked: the path that the user gave, for messages.
    """
    values = described["config"] if env is None else with_environment(described["config"], env)
    check_known(values, asked)
    recipe = recipe_of_run(described)
    try:
        config = checked(config_from_json(recipe.config_class, values))
    except ConfigError as error:
        raise CheckpointError(f"run {checkpoint.parent.parent}: {error}") from error
    settings = settings_of(config)
    check_identity(checkpoint, identity(described["algorithm"], described["config"]))
    with GlobalRandom().kept(Seeds(settings.seed).integer("process")):
        torch.set_num_threads(settings.threads)
        # a user's own Config may have such a method too
        to_act = config.to_act() if hasattr(config, "to_act") else config
        with contextlib.closing(recipe.build(to_act)) as pipeline:
            # the policy's input depends on the observation statistics as well
            load_checkpoint(checkpoint, pipeline.state, {"policy"} | pipeline.statistics())
            # users of the policy open other environments
            opened = getattr(getattr(pipeline.collector, "env", None), "base_env", None)
    return Agent(described["recipe"], config, checkpoint, pipeline, opened)
