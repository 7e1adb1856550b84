"""The training loop: the only one."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tensordict import TensorDictBase

from rlpipe.errors import InterruptedRunError, TrainingError
from rlpipe.pipelines.checkpoints.checkpoint import check_savable
from rlpipe.pipelines.checkpoints.state_checks import check_like
from rlpipe.pipelines.child_processes import check_main_guard
from rlpipe.pipelines.devices import gpu_memory_for
from rlpipe.pipelines.pipeline import Pipeline
from rlpipe.pipelines.progress import Evaluation, Listener, Progress, Stage, Telling
from rlpipe.pipelines.runs.run import Run
from rlpipe.pipelines.seeding import GlobalRandom
from rlpipe.pipelines.stopping import StoppingRule
from rlpipe.pipelines.training.failures import check_finite, diverged, naming_checkpoint, naming_last, weights_of
from rlpipe.pipelines.training.finished_episodes import EpisodeCounter, frames_of
from rlpipe.pipelines.training.metrics import Line, numbers_of
from rlpipe.pipelines.training.signals import Interruption

_LOG = logging.getLogger("rlpipe")
_PATIENCE = 10_000
"""Steps of each environment without an update or an end of an episode after which that is said."""
_DIVERGED = 1e6
"""A weight of which no policy has any use."""


@dataclass
class Result:
    """How far training came.

    Args:
        frames: environment steps.
        updates: gradient steps.
        episodes: episodes that ended.
        seconds: of collecting and learning; evaluation and checkpoints are not counted.
        stopped_by: the stopping rule's reason, or the listener's, or nothing.
        longest_streak: most successes in a row.
    """

    frames: int = 0
    updates: int = 0
    episodes: int = 0
    seconds: float = 0.0
    stopped_by: str = ""
    longest_streak: int = 0

    @property
    def frames_per_second(self) -> float:
        """Frames over training seconds."""
        return self.frames / self.seconds if self.seconds else 0.0

    def progress(self, stage: Stage, **new: Any) -> Progress:
        """The counters, and what is new, as they are told."""
        return Progress(stage, self.frames, self.updates, self.episodes, self.seconds, **new)

    def state_dict(self) -> dict[str, Any]:
        """The counters, for a checkpoint."""
        return dict(vars(self))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`."""
        check_like(vars(Result()), state)
        vars(self).update(state)


def train(
    pipeline: Pipeline,
    run: Run | None = None,
    *,
    evaluate: Callable[[], Evaluation] | None = None,
    eval_every: int | None = None,
    checkpoint_every: int | None = None,
    stopping: StoppingRule | None = None,
    log_every: int = 1,
    progress: Listener | None = None,
    interruption: Interruption | None = None,
    checkpoint_first: bool = False,
) -> Result:
    """Collect, learn, log, and at intervals evaluate and checkpoint, until the collector has its frames.

    A run folder that was opened again is first brought back to its newest checkpoint, and the pipeline with it, and the
    process's generators for as long as it trains. Without a run nothing is written. At each evaluation that is better
    than all before, the run keeps what acts, see `Run.keep_best`.

    Args:
        pipeline: what to train; its collector knows the total number of frames.
        run: the folder to write into; `None` writes nothing, and can checkpoint nothing.
        evaluate: evaluates the pipeline's policy.
        eval_every: frames from one evaluation to the next.
        checkpoint_every: frames from one checkpoint to the next; a run always has one at the end.
        stopping: ends the run before its frames do; by default nothing does.
        log_every: frames from one line of metrics to the next, at least a batch.
        progress: told at the start, with each line, and before and after each evaluation. If it returns `False` or
            raises `StopTraining`, the run ends after the batch, as by a stopping rule; one that is resumed goes on only
            with more frames than it was begun for. Anything else that it raises is raised again after the batch, an
            evaluation that is due and a checkpoint.
        interruption: entered already; a signal is then followed by a last checkpoint.
        checkpoint_first: write one before the first batch, because the pipeline is not as its config alone makes it.

    Raises:
        TrainingError: a loss or gradient became NaN or infinite; names the frame, the term and the last checkpoint. Or
            the run folder cannot be written, or the GPU ran out of memory (`GPUMemoryError`).
        InterruptedRunError: after the checkpoint of an `interruption`.
        CheckpointError: the run folder has checkpoints, and none of them fits.
        ValueError: checkpoints are asked for, and there is no run.
    """
    check_main_guard()
    if run is None and (checkpoint_every is not None or checkpoint_first):
        raise ValueError("checkpoints are written into a run, and there is none; pass a Run")
    loop = _Loop(pipeline, run, stopping or StoppingRule(), progress)
    with naming_checkpoint(run), contextlib.ExitStack() as stack:
        if pipeline.environments is not None and checkpoint_every is not None:
            pipeline.environments.note_actions()
        if run is not None:
            before = GlobalRandom().state_dict()
            run.restore(loop.state)
            if loop.result.frames:
                # what the process draws afterwards is no part of the run
                stack.callback(GlobalRandom().load_state_dict, before)
            if loop.result.frames and pipeline.environments is None:
                _LOG.warning(
                    "rlpipe: a checkpoint holds no environments of this collector: the run goes on in fresh ones, and "
                    "not to the bit; SyncDataCollector's are held, with transforms that change each step by itself"
                )
            if not loop.result.frames:
                run.note_built(pipeline.state, pipeline.collector)
        loop.episodes.begin()
        loop.stopping.go_on(loop.limit)
        loop.tell("starting")
        if checkpoint_first:
            loop.checkpoint()
        loop.raise_listeners()
        batches = iter(pipeline.collector)
        with interruption.held_back() if interruption else contextlib.nullcontext():
            while not loop.stopping.reason and loop.step(batches, log_every, checkpoint_every):
                if evaluate is not None and loop.due(eval_every):
                    loop.evaluate(evaluate)
                if loop.due(checkpoint_every):
                    loop.checkpoint()
                loop.raise_listeners()
                if interruption is not None and interruption.signal is not None:
                    loop.checkpoint()
                    word = f"{interruption.word} at frame {loop.result.frames}"
                    raise InterruptedRunError(word, interruption.exit_code)
            return loop.finish()


class _Loop:
    """What `train` keeps from one batch to the next, and the steps that it consists of."""

    def __init__(self, pipeline: Pipeline, run: Run | None, stopping: StoppingRule, progress: Listener | None) -> None:
        self.pipeline, self.run, self.stopping, self.telling = pipeline, run, stopping, Telling(progress)
        self.result, self.line, self.before = Result(), Line(), 0
        self.episodes = EpisodeCounter(pipeline.collector)
        own = {"progress": self.result, "line": self.line, "stopping": stopping, "global_random": GlobalRandom()}
        if taken := sorted(set(own) & set(pipeline.state)):
            raise ValueError(f"the pipeline's state has {taken[0]!r}, a name that train keeps for itself; use another")
        self.state = {**pipeline.state, **own}
        if run is not None:
            if "policy" not in pipeline.state:
                raise ValueError("the pipeline's state has no 'policy', without which no checkpoint is of any use")
            check_savable(self.state)
        limit = getattr(pipeline.collector, "total_frames", None)
        self.limit = math.inf if limit is None or limit < 0 else limit

    def step(self, batches: Iterator[TensorDictBase], log_every: int, checkpoint_every: int | None) -> bool:
        """Collect a batch and learn from it; false if there is none, or a resumed run has had its frames."""
        if self.result.frames >= self.limit:
            return False
        started, result, environments = time.perf_counter(), self.result, self.pipeline.environments
        with gpu_memory_for("the collection of a batch", "--num-envs or --rollout-steps"):
            try:
                batch = next(batches, None)
            except TrainingError as error:
                raise self._suspect_policy(error) from error
        if batch is None:
            return False
        returns, lengths, successes = self.episodes.count(batch)
        self.before, result.frames = result.frames, result.frames + frames_of(batch)
        if environments is not None and self.due(checkpoint_every):
            environments.cut(batch)
        with gpu_memory_for("what is learned from a batch", "--num-envs or --rollout-steps"):
            learned = numbers_of(self.pipeline.learn(batch))
        if (metrics := getattr(self.pipeline.collector, "metrics", None)) is not None:
            learned |= metrics(time.perf_counter() - started)
        result.updates += int(learned["updates"])
        result.episodes += len(returns)
        check_finite(learned, result.frames, self.run)
        self.stopping.after_batch(returns, learned)
        result.longest_streak = self.stopping.longest_streak
        self.line.add(learned, returns, lengths, successes)
        if environments is not None and self.due(checkpoint_every):
            environments.synchronise(result.frames)
        result.seconds += time.perf_counter() - started
        if not result.updates and not result.episodes and self._waits_in_vain(batch.numel() // batch.shape[-1]):
            self._tell_no_updates("training has made")
        if self.due(log_every):
            self.write()
        return True

    def _waits_in_vain(self, num_envs: int) -> bool:
        """Whether it is time to say so: once."""
        return self.before < _PATIENCE * num_envs <= self.result.frames

    def _tell_no_updates(self, what: str) -> None:
        if self.result.episodes:
            why = "raise total_frames, or lower what learning waits for, such as warmup_frames"
        else:
            why = (
                "no episode has ended, and whole episodes are what some algorithms learn from; --max-episode-steps "
                "(max_episode_steps) sets a limit"
            )
        _LOG.warning("rlpipe: %s 0 updates in %s frames: %s", what, f"{self.result.frames:,}", why)

    def _suspect_policy(self, error: TrainingError) -> TrainingError:
        """An environment that failed, or else the policy that asked it for what no environment does."""
        weights = weights_of(self.pipeline.policy).values()
        numbers = [weight for weight in weights if weight.numel() and weight.is_floating_point()]
        largest = max((weight.abs().max().item() for weight in numbers), default=0.0)
        if largest < _DIVERGED:
            return TrainingError(naming_last(str(error), self.run))
        return TrainingError(
            f"{error}; but the policy has diverged, its largest weight is {largest:.0e}: try a lower lr or step_size"
        )

    def due(self, every: int | None) -> bool:
        """Whether a multiple of `every` was passed by the last batch."""
        return _due(self.before, self.result.frames, every)

    def evaluate(self, judge: Callable[[], Evaluation]) -> None:
        """Evaluate, take note, and keep the policy if it is the best so far."""
        self.tell("evaluating")
        with gpu_memory_for("an evaluation", "--eval-episodes"):
            evaluation = judge()
        if self.run is not None:
            self.run.log_evaluation(self.result.frames, evaluation, seconds=self.result.seconds)
            self.check_weights()
            self.run.keep_best(self.result.frames, self.state, evaluation.mean)
        self.stopping.after_evaluation(evaluation.mean)
        self.tell("evaluated", evaluation=evaluation)

    def tell(self, stage: Stage, **new: Any) -> None:
        """Tell whoever listens, who may want the run to end."""
        if reason := self.telling.tell(self.result.progress(stage, **new)):
            self.stopping.end(reason, self.limit)

    def raise_listeners(self) -> None:
        """Raise what the listener has raised, now that nothing of the batch is left undone, after a checkpoint."""
        if (error := self.telling.raised) is not None:
            try:
                self.checkpoint()
            except TrainingError as failure:
                raise failure from error
            raise error

    def write(self) -> None:
        """Write a line of metrics, if there is anything in it, and begin the next."""
        if not self.line.scalars:
            return
        result, (returns, lengths) = self.result, (self.line.returns, self.line.lengths)
        scalars = {**self.line.means(), "seconds": result.seconds, "frames_per_second": result.frames_per_second}
        if self.run is not None:
            self.run.log_batch(result.frames, scalars, returns, lengths)
        # before anybody is told, who may fail: it is written
        self.line.clear()
        self.tell("training", scalars=scalars, returns=returns, lengths=lengths)

    def check_weights(self) -> None:
        """Refuse a policy that the last gradient step has ruined."""
        for name, weight in weights_of(self.pipeline.policy).items():
            if not weight.isfinite().all():
                raise diverged(self.result.frames, f"weight {name}", "not finite", self.run)

    def checkpoint(self) -> None:
        """Write a checkpoint into the run, if there is one."""
        self.check_weights()
        self.result.stopped_by = self.stopping.reason
        if self.run is not None:
            self.run.checkpoint(self.result.frames, self.state)

    def finish(self) -> Result:
        """Write what is left; after the checkpoint, because a run that goes on from it has not yet come to its end."""
        self.checkpoint()
        self.write()
        if self.result.frames and not self.result.updates:
            self._tell_no_updates("nothing was learned: training ended with")
        self.raise_listeners()
        return self.result


def _due(before: int, now: int, every: int | None) -> bool:
    """Whether a multiple of `every` lies in `(before, now]`."""
    return every is not None and now // every > before // every
