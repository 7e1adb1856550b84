"""A training run from its config to its summary: pipeline, run folder, signals, evaluation, pictures."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from rlpipe.errors import ConfigError, InterruptedRunError, RlpipeError, shown
from rlpipe.pipelines.algorithms.recipes import Recipe
from rlpipe.pipelines.build.environment import warn_of_unnamed
from rlpipe.pipelines.build.oversights import (
    misuse_in_one_line,
    recording,
    warn_of_no_memory,
    warn_of_unlearned,
    warn_of_unread,
)
from rlpipe.pipelines.build.schedules import check_scheduled
from rlpipe.pipelines.build.weights import load_weights
from rlpipe.pipelines.child_processes import check_main_guard
from rlpipe.pipelines.collectors.evaluation import evaluate, is_endless, most_copies
from rlpipe.pipelines.config.groups import RayConfig
from rlpipe.pipelines.config.run import SessionConfig, settings_of
from rlpipe.pipelines.config.start import Start
from rlpipe.pipelines.devices import gpu_memory_for
from rlpipe.pipelines.envs.rendering import check_drawable
from rlpipe.pipelines.pipeline import Pipeline
from rlpipe.pipelines.progress import Evaluation, Listener, Progress, Reporter
from rlpipe.pipelines.render.player import Player, record
from rlpipe.pipelines.replay.state import check_checkpoints
from rlpipe.pipelines.runs import layout
from rlpipe.pipelines.runs.loggers.loggers import DEFAULT, Kind, check_loggers
from rlpipe.pipelines.runs.new_folder import claimed
from rlpipe.pipelines.runs.origin import digest_of_checkpoint
from rlpipe.pipelines.runs.run import BuiltFrom, Run
from rlpipe.pipelines.seeding import GlobalRandom, Seeds
from rlpipe.pipelines.summary import Stopwatch, summarise
from rlpipe.pipelines.training.ended import read_end
from rlpipe.pipelines.training.failures import explained
from rlpipe.pipelines.training.listeners import Moment, listener_names
from rlpipe.pipelines.training.loop import LoopOptions, run_loop
from rlpipe.pipelines.training.result import Result
from rlpipe.pipelines.training.signals import Interruption
from rlpipe.warn_once import each_once

Display = Callable[[Interruption, Path], AbstractContextManager[Listener | None]]
"""Makes the display of a run's progress from its folder; it is entered while the run trains."""

_LOG = logging.getLogger("rlpipe")


@dataclass(frozen=True)
class Session:
    """A run to start or to resume.

    Args:
        recipe: that builds it.
        config: of the recipe.
        folder: of the run; a new one is made before anything else.
        numbered: if the folder exists, make the next free one, with a number after its name.
        start_from: the run or checkpoint whose weights it begins with, as the user named it.
        display: shows the progress; by default nothing does.
        loggers: where metrics go besides the journals.
        listeners: besides those of the pipeline.
        watch: measures how long a person waits for it; by default from now on.
    """

    recipe: Recipe
    config: Any
    folder: Path
    numbered: bool = False
    resume: bool = False
    start_from: str | None = None
    display: Display = lambda *_: contextlib.nullcontext()
    loggers: tuple[Kind, ...] = DEFAULT
    listeners: tuple[Callable[[Moment], object], ...] = ()
    watch: Stopwatch = field(default_factory=Stopwatch)

    @functools.cached_property
    def settings(self) -> SessionConfig:
        """What a run reads of its config."""
        return settings_of(self.config)

    def run(self, start: Start | None = None) -> dict[str, Any]:
        """Train, from what another run has learned if one is given, evaluate, and return the summary.

        Raises:
            InterruptedRunError: by Ctrl-C or SIGTERM; says how to resume the run.
            ConfigError: there is an address of Ray, and nothing for Ray to do.
        """
        check_main_guard()
        _check_address(self.config)
        seed = Seeds(self.settings.seed).integer("process")
        made = contextlib.nullcontext(self.folder) if self.resume else claimed(self.folder, numbered=self.numbered)
        # first, because `each_once` is one of the process as well
        with GlobalRandom().kept(seed), each_once(), Interruption() as interruption, made as folder:
            torch.set_num_threads(self.settings.threads)
            session = dataclasses.replace(self, folder=folder)
            try:
                with session._misuse(), contextlib.ExitStack() as stack:
                    return session._run(stack, interruption, start)
            except (KeyboardInterrupt, InterruptedRunError) as error:
                what = str(error) or interruption.word
                raise InterruptedRunError(f"{what}; {session._how_to_resume()}", interruption.exit_code) from None

    def _run(self, stack: contextlib.ExitStack, interruption: Interruption, start: Start | None) -> dict[str, Any]:
        config = self.settings
        if config.gif:
            # before the training environments exist, because some simulators allow only a few copies
            check_drawable(config.eval_env)
        with gpu_memory_for("the networks", "--hidden"):
            pipeline = stack.enter_context(contextlib.closing(self._build()))
        if interruption.signal is not None:
            # a signal that came while processes or Ray started may have been lost there
            raise KeyboardInterrupt
        if start is not None:
            load_weights(pipeline, config, start)
        if not self.resume:
            warn_of_unnamed(config)
            check_checkpoints(pipeline.state, self.folder, config.total_frames, config.checkpoint_every)
        written = stack.enter_context(contextlib.closing(self._open_run(pipeline, start)))
        try:
            with self.display(interruption, self.folder) as progress:
                options = self._loop_options(pipeline, progress)
                result = run_loop(pipeline, written, options, interruption)
                _warn_of_no_end(config, result)
                evaluation = None if interruption.signal else self._judge_finally(pipeline, written, result, progress)
        except InterruptedRunError:
            # a curve that cannot be drawn must not change how the run ends
            with contextlib.suppress(RlpipeError):
                written.draw()
            raise
        if evaluation is None:
            raise InterruptedRunError(interruption.word, interruption.exit_code)
        return self._finish(pipeline, written, result, evaluation)

    def _misuse(self) -> AbstractContextManager[None]:
        source = self.recipe.source
        if source is None:
            return contextlib.nullcontext()
        source.load()
        return misuse_in_one_line(source.text, source.files())

    def _build(self) -> Pipeline:
        read: set[str] = set()
        source = self.recipe.source
        pipeline = self.recipe.build(recording(self.config, read) if source else self.config)
        if not isinstance(pipeline, Pipeline):
            raise ConfigError(f"build of {self.recipe.algorithm} returned {shown(pipeline)}; expected a Pipeline")
        check_scheduled(self.config, pipeline.listeners)
        if source is not None:
            warn_of_unread(self.config, self.recipe.config(), read, source.files())
            warn_of_unlearned(pipeline.policy, pipeline.state)
        else:
            warn_of_no_memory(self.config, self.recipe.config())
        return pipeline

    def _open_run(self, pipeline: Pipeline, start: Start | None) -> Run:
        built_from = BuiltFrom(
            self.recipe.algorithm,
            self.config,
            source=self.recipe.described(),
            environments=None if pipeline.environments is None else pipeline.environments.kind,
            start_from=self.start_from,
            start_digest=None if start is None else digest_of_checkpoint(start.checkpoint),
            take=() if start is None else start.noted,
            claimed=not self.resume,
            listeners=tuple(listener_names(self.listeners)),
        )
        return Run(self.folder, self.recipe.name, built_from=built_from, loggers=self.loggers, resume=self.resume)

    def _judge_finally(self, pipeline: Pipeline, written: Run, result: Result, progress: Listener | None) -> Evaluation:
        config = self.settings
        # the environments of training are no longer needed
        pipeline.close()
        _report(progress, result.progress("evaluating", final=True))
        with explained(written), gpu_memory_for("the final evaluation", "--final-eval-episodes"):
            evaluation = self._judge(pipeline, config.final_eval_episodes, "final evaluation", copies=config.num_envs)
        written.log_evaluation(result.frames, evaluation, seconds=result.seconds, final=True)
        written.keep_best(result.frames, pipeline.state, evaluation.mean)
        _report(progress, result.progress("evaluated", evaluation=evaluation, final=True))
        return evaluation

    def _finish(self, pipeline: Pipeline, written: Run, result: Result, evaluation: Evaluation) -> dict[str, Any]:
        """Draw the curve, and an episode if asked for; returns the summary."""
        config = self.settings
        if config.gif:
            seed = Seeds(config.seed).integer("gif")
            # there is one if the run was stopped after it was drawn
            (written.folder / layout.GIF).unlink(missing_ok=True)
            record(Player(config.eval_env, pipeline.policy, seed, pipeline.transforms), written.folder / layout.GIF)
        written.draw()
        waited = self.watch.read(result.seconds)
        return summarise(self.recipe.name, config, result, evaluation, self.folder, waited)

    def _loop_options(self, pipeline: Pipeline, progress: Listener | None) -> LoopOptions:
        config = self.settings
        return LoopOptions(
            evaluate=lambda: self._judge(
                pipeline, config.eval_episodes, "evaluation", stochastic=config.eval_stochastic
            ),
            eval_every=config.eval_every,
            checkpoint_every=config.checkpoint_every,
            log_every=config.log_every,
            stopping=config.stopping,
            progress=progress,
            listeners=self.listeners,
        )

    def _judge(
        self, pipeline: Pipeline, episodes: int, stream: str, *, stochastic: bool = False, copies: int = 1
    ) -> Evaluation:
        config = self.settings
        with self.watch.evaluating():
            return evaluate(
                pipeline.policy,
                config.eval_env,
                episodes=episodes,
                seed=Seeds(config.seed).integer(stream),
                stochastic=stochastic,
                transforms=pipeline.transforms,
                num_envs=most_copies(config.eval_env, config.eval_envs, copies),
            )

    def _how_to_resume(self) -> str:
        if not (self.folder / layout.CONFIG).is_file():
            return "nothing was written yet"
        if self.listeners:
            how = self.recipe.resume_from_python(self.folder)
            return f"what was written is in {self.folder}; continue with: {how}"
        return f"what was written is in {self.folder}; continue with: {self.recipe.resume(self.folder)}"


def continue_run(session: Session, before: Any) -> dict[str, Any]:
    """Resume a run that had the config `before`; of one that has ended, only the summary is read.

    Raises:
        ConfigError: a stopping rule ended it, and more frames do not change that.
    """
    folder, config = session.folder, session.config
    result, evaluation, by_choice = read_end(folder, session.recipe.algorithm, before)
    is_longer = config.total_frames != before.total_frames
    if result.stopped_by and not by_choice and is_longer:
        raise ConfigError(f"run {folder} was stopped by {result.stopped_by}; more frames do not change that")
    pictures = (layout.CURVE, *([layout.GIF] if session.settings.gif else []))
    if evaluation is not None and not is_longer and all((folder / name).is_file() for name in pictures):
        return summarise(session.recipe.name, config, result, evaluation, folder, None)
    session.watch.trained_before = result.seconds
    return dataclasses.replace(session, loggers=check_loggers(session.loggers)).run()


def _check_address(config: Any) -> None:
    collector = getattr(config, "collector", "local")
    if isinstance(config, RayConfig) and config.ray_address is not None and collector != "ray":
        raise ConfigError(
            f"ray_address is {config.ray_address} with collector {collector!r}; set collector to 'ray', or "
            "train several seeds with --jobs ray"
        )


def _warn_of_no_end(config: SessionConfig, result: Result) -> None:
    if result.frames and result.updates and not result.episodes and is_endless(config.env):
        _LOG.warning(
            "rlpipe: %s has no time limit, and no episode ended in %s frames of training: there are no training "
            "returns, and updates that need finished episodes did not run; --max-episode-steps (max_episode_steps) "
            "sets a limit",
            config.env_id,
            f"{result.frames:,}",
        )


def _report(listener: Listener | None, progress: Progress) -> None:
    """Report what comes after training, which a listener can no longer end."""
    reporter = Reporter(listener)
    reporter.report(progress)
    if reporter.raised is not None:
        raise reporter.raised
