"""A training run from its config to its summary: pipeline, run folder, signals, evaluation, pictures."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import shlex
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rlpipe.errors import ConfigError, InterruptedRunError, RlpipeError
from rlpipe.pipelines.algorithms.recipes import builder, find_recipe, owners_of
from rlpipe.pipelines.build.pipeline import load_weights
from rlpipe.pipelines.child_processes import check_main_guard
from rlpipe.pipelines.collectors.evaluation import evaluate, is_endless, most_copies
from rlpipe.pipelines.config.foreign_names import explain
from rlpipe.pipelines.config.train import TrainConfig
from rlpipe.pipelines.devices import gpu_memory_for
from rlpipe.pipelines.envs.rendering import check_drawable
from rlpipe.pipelines.pipeline import Pipeline
from rlpipe.pipelines.progress import Evaluation, Listener, Progress, Telling
from rlpipe.pipelines.render.player import Player, record
from rlpipe.pipelines.replay.state import check_checkpoints
from rlpipe.pipelines.runs import layout
from rlpipe.pipelines.runs.loggers.loggers import DEFAULT, Kind, check_loggers
from rlpipe.pipelines.runs.new_folder import claimed, default_folder
from rlpipe.pipelines.runs.origin import digest_of_checkpoint
from rlpipe.pipelines.runs.read import read_best
from rlpipe.pipelines.runs.run import Run
from rlpipe.pipelines.seeding import GlobalRandom, Seeds
from rlpipe.pipelines.training.failures import naming_checkpoint
from rlpipe.pipelines.training.loop import Result, train
from rlpipe.pipelines.training.signals import Interruption
from rlpipe.warn_once import each_once

Display = Callable[[Interruption, Path], AbstractContextManager[Listener | None]]
"""Makes what shows the progress of the run in a folder, entered while it trains; it may say that a signal came."""

_LOG = logging.getLogger("rlpipe")
_ONE_AT_A_TIME = threading.RLock()


@dataclass(frozen=True)
class Session:
    """A run to begin or to continue.

    Args:
        recipe: its name.
        algorithm: name of the module in `rlpipe.pipelines` that builds it.
        config: what it is built from.
        folder: of the run; unless it is resumed, it is made before anything else.
        numbered: if the folder is taken, make the next free one, with a number behind its name.
        resume: continue what is in the folder.
        start_from: the run or checkpoint that it began with, as the user named it.
        display: shows the progress; by default nothing does.
        loggers: where metrics go beside the journals.
    """

    recipe: str
    algorithm: str
    config: TrainConfig
    folder: Path
    numbered: bool = False
    resume: bool = False
    start_from: str | None = None
    display: Display = lambda *_: contextlib.nullcontext()
    loggers: tuple[Kind, ...] = DEFAULT

    def run(self, weights: Path | None = None) -> dict[str, Any]:
        """Train, evaluate, and return the summary.

        Args:
            weights: a checkpoint of another run, to begin with what it learned.

        Raises:
            InterruptedRunError: by Ctrl-C or SIGTERM; says how to go on.
            ConfigError: there is an address of Ray, and nothing for Ray to do.
        """
        check_main_guard()
        if self.config.ray_address is not None and self.config.collector != "ray":
            raise ConfigError(
                f"ray_address is {self.config.ray_address} with collector {self.config.collector!r}; set collector to "
                "'ray', or train several seeds with --jobs ray"
            )
        logging.getLogger("torchrl").setLevel(logging.WARNING)
        seed = Seeds(self.config.seed).integer("process")
        with (
            each_once(),
            GlobalRandom().kept(seed),
            Interruption() as interruption,
            self._open_folder() as folder,
        ):
            torch.set_num_threads(self.config.threads)
            session = dataclasses.replace(self, folder=folder)
            try:
                with contextlib.ExitStack() as stack:
                    return session._run(stack, interruption, weights)
            except (KeyboardInterrupt, InterruptedRunError) as error:
                what = str(error) or interruption.word
                raise InterruptedRunError(f"{what}; {session._way_on()}", interruption.exit_code) from None

    def _open_folder(self) -> AbstractContextManager[Path]:
        return contextlib.nullcontext(self.folder) if self.resume else claimed(self.folder, numbered=self.numbered)

    def _run(self, stack: contextlib.ExitStack, interruption: Interruption, weights: Path | None) -> dict[str, Any]:
        config = self.config
        if config.gif:
            # before there are environments to train in, because of a simulator few copies may run
            check_drawable(config.eval_env)
        with gpu_memory_for("the networks", "--hidden"):
            pipeline = stack.enter_context(contextlib.closing(builder(self.algorithm)(config)))
        if interruption.signal is not None:
            # one that came while processes or Ray were started may have been swallowed there
            raise KeyboardInterrupt
        if weights is not None:
            load_weights(weights, pipeline)
        if not self.resume:
            check_checkpoints(pipeline.state, self.folder, config.total_frames, config.checkpoint_every)
        kind = None if pipeline.environments is None else pipeline.environments.kind
        folder = Run(
            self.folder,
            self.recipe,
            self.algorithm,
            config,
            environments=kind,
            start_from=self.start_from,
            start_digest=None if weights is None else digest_of_checkpoint(weights),
            custom=False,
            loggers=self.loggers,
            resume=self.resume,
            claimed=not self.resume,
        )
        written = stack.enter_context(contextlib.closing(folder))
        try:
            with self.display(interruption, self.folder) as progress:
                result = self._train(pipeline, written, progress, interruption, first=weights is not None)
                self._tell_of_no_end(result)
                evaluation = None if interruption.signal else self._judge_finally(pipeline, written, result, progress)
        except InterruptedRunError:
            # a picture is no reason to end otherwise
            with contextlib.suppress(RlpipeError):
                written.draw()
            raise
        if evaluation is None:
            raise InterruptedRunError(interruption.word, interruption.exit_code)
        return self._finish(pipeline, written, result, evaluation)

    def _train(
        self, pipeline: Pipeline, written: Run, progress: Listener | None, interruption: Interruption, *, first: bool
    ) -> Result:
        config = self.config
        return train(
            pipeline,
            written,
            evaluate=lambda: self._judge(
                pipeline, config.eval_episodes, "evaluation", stochastic=config.eval_stochastic
            ),
            eval_every=config.eval_every,
            checkpoint_every=config.checkpoint_every,
            stopping=config.stopping,
            log_every=config.log_every,
            progress=progress,
            interruption=interruption,
            checkpoint_first=first,
        )

    def _tell_of_no_end(self, result: Result) -> None:
        if result.frames and result.updates and not result.episodes and is_endless(self.config.env):
            _LOG.warning(
                "rlpipe: %s has no time limit, and no episode ended in %s frames of training: there are no training "
                "returns, and what goes by episodes waited; --max-episode-steps (max_episode_steps) sets a limit",
                self.config.env_id,
                f"{result.frames:,}",
            )

    def _judge_finally(self, pipeline: Pipeline, written: Run, result: Result, progress: Listener | None) -> Evaluation:
        config = self.config
        # training is over, and an evaluation has environments of its own
        pipeline.close()
        _tell(progress, result.progress("evaluating", final=True))
        with naming_checkpoint(written), gpu_memory_for("the final evaluation", "--final-eval-episodes"):
            evaluation = self._judge(pipeline, config.final_eval_episodes, "final evaluation", copies=config.num_envs)
        written.log_evaluation(result.frames, evaluation, seconds=result.seconds, final=True)
        written.keep_best(result.frames, pipeline.state, evaluation.mean)
        _tell(progress, result.progress("evaluated", evaluation=evaluation, final=True))
        return evaluation

    def _finish(self, pipeline: Pipeline, written: Run, result: Result, evaluation: Evaluation) -> dict[str, Any]:
        """Draw what was trained, and sum it up."""
        config = self.config
        if config.gif:
            seed = Seeds(config.seed).integer("gif")
            # a run that had come this far before draws the same once more
            (written.folder / layout.GIF).unlink(missing_ok=True)
            record(Player(config.eval_env, pipeline.policy, seed, pipeline.transforms), written.folder / layout.GIF)
        written.draw()
        return summarise(self.recipe, config, result, evaluation, self.folder)

    def _judge(
        self, pipeline: Pipeline, episodes: int, stream: str, *, stochastic: bool = False, copies: int = 1
    ) -> Evaluation:
        config = self.config
        return evaluate(
            pipeline.policy,
            config.eval_env,
            episodes=episodes,
            seed=Seeds(config.seed).integer(stream),
            stochastic=stochastic,
            transforms=pipeline.transforms,
            num_envs=most_copies(config.eval_env, config.eval_envs, copies),
        )

    def _way_on(self) -> str:
        if not (self.folder / layout.CONFIG).is_file():
            return "nothing was written yet"
        return f"what was written is in {self.folder}; go on with: rlpipe resume {shlex.quote(str(self.folder))}"


def _tell(listener: Listener | None, progress: Progress) -> None:
    """Tell a listener of what comes after training, which it can end no more."""
    telling = Telling(listener)
    telling.tell(progress)
    if telling.raised is not None:
        raise telling.raised


def summarise(recipe: str, config: TrainConfig, result: Result, evaluation: Evaluation, folder: Path) -> dict[str, Any]:
    """The summary of a run: what `--json` prints."""
    best = read_best(folder)
    return {
        "recipe": recipe,
        "env_id": config.env_id,
        "eval_env_id": config.eval_env.env_id,
        "seed": config.seed,
        "frames": result.frames,
        "updates": result.updates,
        "episodes": result.episodes,
        "seconds": round(result.seconds, 3),
        "frames_per_second": round(result.frames_per_second, 1),
        "stopped_early": bool(result.stopped_by),
        "stopped_by": result.stopped_by,
        "longest_streak": result.longest_streak if config.stop_after_successes is not None else None,
        "evaluation": evaluation.summary(),
        "best": None if best is None else {"frames": best.frames, "mean": best.score, "checkpoint": str(best.path)},
        "run": str(folder),
    }


def run_recipe(
    name: str,
    *,
    folder: Path | str | None = None,
    progress: Listener | None = None,
    loggers: Sequence[str] | str | None = DEFAULT,
    **options: Any,
) -> dict[str, Any]:
    """Train by a recipe, as `rlpipe train` does: `run_recipe("ppo", seed=3, lr=1e-3)`.

    Called in several threads, the runs wait for one another: whether policies explore is one setting of the process.
    While it trains, the global generators of PyTorch, NumPy and Python are seeded with the run's seed, and PyTorch has
    the number of threads that the recipe says; afterwards all are as they were before.

    Args:
        name: of the recipe.
        folder: of the run, to make; by default `runs/<recipe>/<seed>-<time>`, with a number behind it if that
            is taken.
        progress: told at the start, with each line of metrics, and before and after each evaluation:
            `progress=lambda now: print(now.frames, now.scalars)`. If it returns `False` or raises `StopTraining`, the
            run ends after the batch with a checkpoint, the final evaluation and the summary. Anything else that it
            raises, such as Optuna's `TrialPruned`, is raised after a checkpoint.
        loggers: of `tensorboard`, `wandb` and `mlflow`, one or several; `None` or `()` for none.
        options: fields of the recipe's Config.

    Returns:
        The summary that `rlpipe train --json` prints: `run`, its folder, and `evaluation`, of the greedy policy, in it.

    Raises:
        ConfigError: there is no such recipe or option, a value is not allowed, or the folder exists already.
        TrainingError: training failed; says where and why.
        InterruptedRunError: by Ctrl-C or SIGTERM; says how to go on.
    """
    recipe = find_recipe(name)
    config = recipe.config()
    names = [field.name for field in dataclasses.fields(config)]
    for option in options:
        if option not in names:
            hint = explain(option, [*names, "folder", "progress", "loggers"], owners_of, python=True)
            raise ConfigError(f"{name} has no option {option!r}; {hint or 'there are ' + ', '.join(names)}")
    config = dataclasses.replace(config, **options)
    if progress is not None and not callable(progress):
        raise ConfigError(f"progress is {progress!r}; expected a function of one argument, or None")
    named = [loggers] if isinstance(loggers, str) else list(loggers or ())
    # one that explores must not become greedy while another is evaluated
    with _ONE_AT_A_TIME:
        path = default_folder(recipe.name, config.seed) if folder is None else Path(folder)
        session = Session(
            recipe.name,
            recipe.algorithm,
            config,
            path,
            numbered=folder is None,
            display=lambda *_: contextlib.nullcontext(progress),
            loggers=check_loggers(named),
        )
        return session.run()
