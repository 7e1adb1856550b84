"""The training loop: the only one."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tensordict import TensorDictBase

from rlpipe.errors import InterruptedRunError, TrainingError
from rlpipe.modules.exploration.explorer import Explorer, advanced, scheduled
from rlpipe.pipelines.checkpoints.checkpoint import check_savable
from rlpipe.pipelines.child_processes import check_main_guard
from rlpipe.pipelines.devices import gpu_memory_for
from rlpipe.pipelines.pipeline import Pipeline
from rlpipe.pipelines.progress import Evaluation, Listener
from rlpipe.pipelines.runs.run import Run
from rlpipe.pipelines.seeding import GlobalRandom
from rlpipe.pipelines.stopping import StoppingRule
from rlpipe.pipelines.training.audience import Audience
from rlpipe.pipelines.training.failures import check_diverged, check_finite, check_weights, explained
from rlpipe.pipelines.training.finished_episodes import Ended, EpisodeCounter, frames_of
from rlpipe.pipelines.training.hints import warn_of_fresh_environments, warn_of_no_updates, warn_of_nothing_yet
from rlpipe.pipelines.training.listeners import Moment
from rlpipe.pipelines.training.metrics import Line, numbers_of
from rlpipe.pipelines.training.progress_bar import shown
from rlpipe.pipelines.training.result import Result
from rlpipe.pipelines.training.signals import Interruption

_SMALLER_BATCH = "--num-envs or --rollout-steps"


@dataclass(frozen=True)
class LoopOptions:
    """What `train` does besides collecting and learning, and when; the fields are its arguments."""

    evaluate: Callable[[], Evaluation] | None = None
    eval_every: int | None = None
    checkpoint_every: int | None = None
    log_every: int = 1
    stopping: StoppingRule = field(default_factory=StoppingRule)
    progress: Listener | None = None
    listeners: Sequence[Callable[[Moment], object]] = ()


def train(
    pipeline: Pipeline,
    run: Run | None = None,
    *,
    evaluate: Callable[[], Evaluation] | None = None,
    eval_every: int | None = None,
    checkpoint_every: int | None = None,
    stopping: StoppingRule | None = None,
    log_every: int = 1,
    progress: Listener | bool | None = True,
    listeners: Sequence[Callable[[Moment], object]] = (),
) -> Result:
    """Collect, learn, log, and at intervals evaluate and checkpoint, until the collector has its frames.

    A run folder that was opened to resume it is first brought back to its newest checkpoint, and with it the pipeline
    and, until training ends, the process's random generators. Without a run nothing is written. At each evaluation that
    is better than all before, the run keeps the agent, see `Run.keep_best`.

    Args:
        pipeline: what to train; its collector knows the total number of frames.
        run: the folder to write into; `None` writes nothing, and allows no checkpoints.
        evaluate: evaluates the pipeline's policy.
        eval_every: frames between two evaluations.
        checkpoint_every: frames between two checkpoints; one is always written at the end.
        stopping: ends the run early; by default nothing does.
        log_every: frames between two lines of metrics, at least a batch.
        progress: shows a bar on stderr, or nothing if `False`; or a function, called at the start, with each line, and
            before and after each evaluation. If it returns `False` or raises `StopTraining`, the run ends after the
            batch, as by a stopping rule; when resumed, it only continues if it is given more frames. Any other
            exception is raised again after the batch, an evaluation that is due and a checkpoint.
        listeners: called with a `Moment` at the moments of the loop, after those of the pipeline: they see it, and may
            change it. They end the run as `progress` does. Those with `state_dict` and `load_state_dict` are saved in
            checkpoints. A run that is resumed needs the same ones.

    Raises:
        ConfigError: a listener is no function.
        TrainingError: a loss or gradient became NaN or infinite; names the frame, the term and the last checkpoint. Or
            the run folder cannot be written, or the GPU ran out of memory (`GPUMemoryError`).
        CheckpointError: the run folder has checkpoints, and none of them fits.
        ValueError: checkpoints are asked for, and there is no run.
    """
    stopping = stopping or StoppingRule()
    name = "train" if run is None else run.name
    with shown(progress, name, frames_limit(pipeline)) as listener:
        options = LoopOptions(evaluate, eval_every, checkpoint_every, log_every, stopping, listener, listeners)
        return run_loop(pipeline, run, options)


def frames_limit(pipeline: Pipeline) -> float:
    """The frames that a pipeline's collector will have collected in all; infinite if it does not end by itself."""
    limit = getattr(pipeline.collector, "total_frames", None)
    return math.inf if limit is None or limit < 0 else limit


def run_loop(
    pipeline: Pipeline, run: Run | None, options: LoopOptions, interruption: Interruption | None = None
) -> Result:
    """As `train`, and end with a last checkpoint at a signal that an entered `interruption` receives.

    Raises:
        InterruptedRunError: after the checkpoint of an `interruption`.
    """
    check_main_guard()
    if run is None and options.checkpoint_every is not None:
        raise ValueError("checkpoints are written into a run, and there is none; pass a Run")
    loop = _Loop(pipeline, run, options)
    with explained(run), contextlib.ExitStack() as stack:
        loop.begin(stack)
        batches = iter(pipeline.collector)
        with interruption.held_back() if interruption else contextlib.nullcontext():
            while not loop.stopping.reason and loop.step(batches):
                loop.do_what_is_due()
                if interruption is not None and interruption.signal is not None:
                    loop.checkpoint()
                    word = f"{interruption.word} at frame {loop.result.frames}"
                    raise InterruptedRunError(word, interruption.exit_code)
            return loop.finish()


class _Loop:
    """What `train` keeps from one batch to the next, and its steps."""

    def __init__(self, pipeline: Pipeline, run: Run | None, options: LoopOptions) -> None:
        self.pipeline, self.run, self.options, self.stopping = pipeline, run, options, options.stopping
        self.result, self.line, self.before = Result(), Line(), 0
        self.limit, self.episodes = frames_limit(pipeline), EpisodeCounter(pipeline.collector)
        self.explorers = scheduled(pipeline.policy)
        self.audience = Audience(
            pipeline,
            options.progress,
            options.listeners,
            result=self.result,
            stopping=self.stopping,
            limit=self.limit,
            folder=None if run is None else run.folder,
        )
        own: dict[str, Any] = {"progress": self.result, "line": self.line, "stopping": self.stopping}
        own["global_random"] = GlobalRandom()
        if self.audience.listeners is not None:
            own["listeners"] = self.audience.listeners
        self.state = _add_own(pipeline.state, own, saved=run is not None)

    def begin(self, stack: contextlib.ExitStack) -> None:
        """Restore a run that is resumed, until `stack` closes, and report the start."""
        if self.pipeline.environments is not None and self.options.checkpoint_every is not None:
            self.pipeline.environments.note_actions()
        if self.run is not None:
            before = GlobalRandom().state_dict()
            self.run.restore(self.state)
            if self.result.frames:
                # what the process draws after training is no part of the run
                stack.callback(GlobalRandom().load_state_dict, before)
                warn_of_fresh_environments(self.pipeline)
            else:
                self.run.note_built(self.pipeline.state, self.pipeline.collector)
        self.episodes.begin()
        self.stopping.resume(self.limit)
        self.audience.report("starting")
        self.audience.tell("started")
        if self.run is not None and self.run.start_from is not None and not self.result.frames:
            # the weights that the run begins with do not follow from its config
            self.checkpoint()
        self.raise_listeners()

    def step(self, batches: Iterator[TensorDictBase]) -> bool:
        """Collect a batch, learn from it, count and log it; false if there is none, or a resumed run has its frames."""
        if self.result.frames >= self.limit:
            return False
        started, environments = time.perf_counter(), self.pipeline.environments
        self.pipeline.drop_abandoned()
        batch = _collect(batches, self.pipeline)
        if batch is None:
            return False
        ended = self.episodes.count(batch)
        self.before, self.result.frames = self.result.frames, self.result.frames + frames_of(batch)
        saving = environments is not None and self.due(self.options.checkpoint_every)
        if environments is not None and saving:
            environments.cut(batch)
        if (moment := self.audience.tell("collected", batch=batch)) is not None and moment.batch is not None:
            batch = moment.batch
        learned = _learn(batch, self.pipeline, self.explorers, started)
        self.count(batch, learned, ended)
        if environments is not None and saving:
            environments.synchronise(self.result.frames)
        self.result.seconds += time.perf_counter() - started
        warn_of_nothing_yet(self.result, self.before, num_envs=batch.numel() // batch.shape[-1])
        if self.due(self.options.log_every):
            self.log()
        return True

    def count(self, batch: TensorDictBase, learned: dict[str, float], ended: Ended) -> None:
        """Add a batch to the counters, the stopping rule and the line of metrics."""
        result = self.result
        result.updates += int(learned["updates"])
        result.episodes += len(ended.returns)
        if (moment := self.audience.tell("learned", batch=batch, scalars=learned)) is not None:
            learned = moment.scalars
        check_finite(learned, result.frames)
        self.stopping.after_batch(ended.returns, learned)
        result.longest_streak = self.stopping.longest_streak
        self.line.add(learned, ended)

    def log(self) -> None:
        """Write a line of metrics, if there is anything in it, and begin the next."""
        if not self.line.scalars:
            return
        result, (returns, lengths) = self.result, (self.line.returns, self.line.lengths)
        scalars = {**self.line.means(), "seconds": result.seconds, "frames_per_second": result.frames_per_second}
        if self.run is not None:
            self.run.log_batch(result.frames, scalars, returns, lengths)
        # before the listener, which may raise: the line is written
        self.line.clear()
        self.audience.report("training", scalars=scalars, returns=returns, lengths=lengths)

    def do_what_is_due(self) -> None:
        """Evaluate and checkpoint if the batch passed a multiple of their intervals; raise what the listener raised."""
        if self.options.evaluate is not None and self.due(self.options.eval_every):
            self.evaluate(self.options.evaluate)
        if self.due(self.options.checkpoint_every):
            self.checkpoint()
        self.raise_listeners()

    def due(self, every: int | None) -> bool:
        """Whether the last batch passed a multiple of `every`."""
        return every is not None and self.result.frames // every > self.before // every

    def evaluate(self, judge: Callable[[], Evaluation]) -> None:
        """Evaluate, log it, and keep the policy if it is the best so far."""
        self.audience.report("evaluating")
        with gpu_memory_for("an evaluation", "--eval-episodes"):
            evaluation = judge()
        if self.run is not None:
            self.run.log_evaluation(self.result.frames, evaluation, seconds=self.result.seconds)
            check_weights(self.pipeline.policy, self.result.frames)
            self.run.keep_best(self.result.frames, self.state, evaluation.mean)
        self.stopping.after_evaluation(evaluation.mean)
        self.audience.tell("evaluated", evaluation=evaluation)
        self.audience.report("evaluated", evaluation=evaluation)

    def checkpoint(self) -> None:
        """Write a checkpoint into the run, if there is one."""
        check_weights(self.pipeline.policy, self.result.frames)
        self.result.stopped_by = self.stopping.reason
        if self.run is not None:
            before = self.run.last_checkpoint()
            self.run.checkpoint(self.result.frames, self.state)
            if self.run.last_checkpoint() != before:
                self.audience.tell("checkpointed")

    def raise_listeners(self) -> None:
        """Raise what a listener raised, after the batch is finished and a checkpoint written."""
        if (error := self.audience.raised) is not None:
            try:
                self.checkpoint()
            except TrainingError as failure:
                raise failure from error
            raise error

    def finish(self) -> Result:
        """Write what is left; after the checkpoint, because a run that resumes from it has not yet ended."""
        self.checkpoint()
        self.log()
        self.audience.tell("ended")
        if self.result.frames and not self.result.updates:
            warn_of_no_updates(self.result, "nothing was learned: training ended with")
        self.raise_listeners()
        return self.result


@gpu_memory_for("the collection of a batch", _SMALLER_BATCH)
def _collect(batches: Iterator[TensorDictBase], pipeline: Pipeline) -> TensorDictBase | None:
    """The next batch, if there is one."""
    try:
        return next(batches, None)
    except TrainingError as error:
        check_diverged(pipeline.policy, error)
        raise


@gpu_memory_for("what is learned from a batch", _SMALLER_BATCH)
def _learn(
    batch: TensorDictBase, pipeline: Pipeline, explorers: Sequence[Explorer], started: float
) -> dict[str, float]:
    """Learn from a batch; returns the scalars of `learn` and of the collector."""
    with advanced(explorers, batch):
        learned = numbers_of(pipeline.learn(batch))
    metrics = getattr(pipeline.collector, "metrics", None)
    return learned if metrics is None else learned | metrics(time.perf_counter() - started)


def _add_own(state: Mapping[str, Any], own: Mapping[str, Any], *, saved: bool) -> dict[str, Any]:
    """The state of a pipeline and of the loop, checked if checkpoints of it are saved."""
    if taken := sorted(set(own) & set(state)):
        raise ValueError(f"the pipeline's state has {taken[0]!r}, a name that train uses itself; choose another")
    whole = {**state, **own}
    if saved:
        check_savable(whole)
    return whole
