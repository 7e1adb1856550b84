"""The training loop: the only one."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor

from rlpipe.errors import CheckpointError, InterruptedRunError, TrainingError
from rlpipe.pipelines.checkpoint import check_identity, check_savable, identity, load_checkpoint
from rlpipe.pipelines.config import TrainConfig
from rlpipe.pipelines.curve import read_lines
from rlpipe.pipelines.evaluation import Evaluation
from rlpipe.pipelines.failures import check_finite, diverged, naming_checkpoint, naming_last
from rlpipe.pipelines.files import DAMAGE
from rlpipe.pipelines.fitting import check_like
from rlpipe.pipelines.fleet import Fleet
from rlpipe.pipelines.folder import newest_checkpoint
from rlpipe.pipelines.interruption import Interruption
from rlpipe.pipelines.line import Line
from rlpipe.pipelines.memory import gpu_memory_for
from rlpipe.pipelines.pipeline import Pipeline
from rlpipe.pipelines.progress import Listener, Progress, Stage
from rlpipe.pipelines.run import Run
from rlpipe.pipelines.seeding import GlobalRandom
from rlpipe.pipelines.stopping import StoppingRule
from rlpipe.pipelines.transfer import moved

_LOG = logging.getLogger("rlpipe")
_HOST = torch.device("cpu")
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
        stopped_by: the stopping rule's reason, or nothing.
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

    A run folder that was opened again is first brought back to its newest checkpoint, and the pipeline with it. Without
    a run nothing is written.

    Args:
        pipeline: what to train; its collector knows the total number of frames.
        run: the folder to write into; `None` writes nothing, and can checkpoint nothing.
        evaluate: evaluates the pipeline's policy.
        eval_every: frames from one evaluation to the next.
        checkpoint_every: frames from one checkpoint to the next; a run always has one at the end.
        stopping: ends the run before its frames do; by default nothing does.
        log_every: frames from one line of metrics to the next, at least a batch.
        progress: told at the start, with each line, and before and after each evaluation.
        interruption: entered already; a signal is then followed by a last checkpoint.
        checkpoint_first: write one before the first batch, because the pipeline is not as its config alone makes it.

    Raises:
        TrainingError: a loss or gradient became NaN or infinite; names the frame, the term and the last checkpoint. Or
            the run folder cannot be written, or the GPU ran out of memory (`GPUMemoryError`).
        InterruptedRunError: after the checkpoint of an `interruption`.
        CheckpointError: the run folder has checkpoints, and none of them fits.
        ValueError: checkpoints are asked for, and there is no run.
    """
    if run is None and (checkpoint_every is not None or checkpoint_first):
        raise ValueError("checkpoints are written into a run, and there is none; pass a Run")
    loop = _Loop(pipeline, run, stopping or StoppingRule(), progress)
    with naming_checkpoint(run):
        if pipeline.environments is not None and checkpoint_every is not None:
            pipeline.environments.note_actions()
        if run is not None:
            run.restore(loop.state)
            if loop.result.frames and pipeline.environments is None:
                _LOG.warning(
                    "rlpipe: a checkpoint holds no environments of this collector: the run goes on in fresh ones, and "
                    "not to the bit; SyncDataCollector's are held, with transforms that change each step by itself"
                )
            if not loop.result.frames:
                run.note_built(pipeline.state, pipeline.collector)
        loop.tell("starting")
        if checkpoint_first:
            loop.checkpoint()
        batches = iter(pipeline.collector)
        with interruption.held_back() if interruption else contextlib.nullcontext():
            while not loop.stopping.reason and loop.step(batches, log_every, checkpoint_every):
                if evaluate is not None and loop.due(eval_every):
                    loop.evaluate(evaluate)
                if loop.due(checkpoint_every):
                    loop.checkpoint()
                if interruption is not None and interruption.signal is not None:
                    loop.checkpoint()
                    word = f"{interruption.word} at frame {loop.result.frames}"
                    raise InterruptedRunError(word, interruption.exit_code)
            return loop.finish()


class _Loop:
    """What `train` keeps from one batch to the next, and the steps that it consists of."""

    def __init__(self, pipeline: Pipeline, run: Run | None, stopping: StoppingRule, progress: Listener | None) -> None:
        self.pipeline, self.run, self.stopping, self.progress = pipeline, run, stopping, progress
        self.result, self.line, self.before = Result(), Line(), 0
        own = {"progress": self.result, "line": self.line, "stopping": stopping, "global_random": GlobalRandom()}
        if taken := sorted(set(own) & set(pipeline.state)):
            raise ValueError(f"the pipeline's state has {taken[0]!r}, a name that train keeps for itself; use another")
        self.state = {**pipeline.state, **own}
        self.score: float | None = None
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
        returns, lengths = finished_episodes(batch)
        self.before, result.frames, self.score = result.frames, result.frames + batch.numel(), None
        if environments is not None and self.due(checkpoint_every):
            environments.cut(batch)
        with gpu_memory_for("what is learned from a batch", "--num-envs or --rollout-steps"):
            learned = _numbers(self.pipeline.learn(batch))
        if isinstance(self.pipeline.collector, Fleet):
            learned |= self.pipeline.collector.metrics(time.perf_counter() - started)
        result.updates += int(learned["updates"])
        result.episodes += len(returns)
        check_finite(learned, result.frames, self.run)
        self.stopping.after_batch(returns, learned)
        result.longest_streak = self.stopping.longest_streak
        self.line.add(learned, returns, lengths)
        if environments is not None and self.due(checkpoint_every):
            environments.synchronise(result.frames)
        result.seconds += time.perf_counter() - started
        if self.due(log_every):
            self.write()
        return True

    def _suspect_policy(self, error: TrainingError) -> TrainingError:
        """An environment that failed, or else the policy that asked it for what no environment does."""
        weights = [each for each in self.pipeline.policy.state_dict().values() if isinstance(each, Tensor)]
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
        """Evaluate and take note."""
        self.tell("evaluating")
        with gpu_memory_for("an evaluation", "--eval-episodes"):
            evaluation = judge()
        self.score = evaluation.mean
        if self.run is not None:
            self.run.log_evaluation(self.result.frames, evaluation, seconds=self.result.seconds)
        self.stopping.after_evaluation(evaluation.mean)
        self.tell("evaluated", evaluation=evaluation)

    def tell(self, stage: Stage, **new: Any) -> None:
        """Tell whoever listens."""
        if self.progress is not None:
            self.progress(self.result.progress(stage, **new))

    def write(self) -> None:
        """Write a line of metrics, if there is anything in it, and begin the next."""
        if not self.line.scalars:
            return
        result, line = self.result, self.line
        scalars = {**line.means(), "seconds": result.seconds, "frames_per_second": result.frames_per_second}
        if self.run is not None:
            self.run.log_batch(result.frames, scalars, line.returns, line.lengths)
        self.tell("training", scalars=scalars, returns=line.returns, lengths=line.lengths)
        line.clear()

    def checkpoint(self) -> None:
        """Write a checkpoint into the run, if there is one; refuse weights that the last gradient step has ruined."""
        for name, weight in self.pipeline.policy.state_dict().items():
            if isinstance(weight, Tensor) and not weight.isfinite().all():
                raise diverged(self.result.frames, f"weight {name}", "not finite", self.run)
        self.result.stopped_by = self.stopping.reason
        if self.run is not None:
            self.run.checkpoint(self.result.frames, self.state, score=self.score)

    def finish(self) -> Result:
        """Write what is left; after the checkpoint, because a run that goes on from it has not yet come to its end."""
        self.checkpoint()
        self.write()
        return self.result


def read_end(folder: Path, algorithm: str, config: TrainConfig) -> tuple[Result, Evaluation | None]:
    """How far the run in a folder came, and its final evaluation; one that has not come to its end has none."""
    result, newest = Result(), newest_checkpoint(folder)
    if newest is None:
        return result, None
    try:
        check_identity(newest, identity(algorithm, dataclasses.asdict(config)))
        load_checkpoint(newest, {"progress": result})
        row = read_lines(folder / "evaluations.jsonl")[-1]
        final = Evaluation(tuple(map(float, row["returns"])), tuple(map(int, row["lengths"])))
        ended = row["final"] is True and row["frames"] == result.frames and final.returns
        return result, final if ended else None
    except (CheckpointError, *DAMAGE):
        # to continue it tells what is wrong
        return Result(), None


def finished_episodes(batch: TensorDictBase) -> tuple[list[float], list[int]]:
    """Returns and lengths of the episodes that ended in a batch `[num_envs, T]`, in the order in which they ended."""
    after = batch.get("next").transpose(0, 1)
    told = moved([after.get(key) for key in ("done", "episode_reward", "step_count")], _HOST)
    ended = told[0].squeeze(-1)
    return told[1][ended].flatten().tolist(), told[2][ended].flatten().tolist()


def _numbers(scalars: TensorDictBase) -> dict[str, float]:
    """What `learn` returned, as numbers.

    Raises:
        ValueError: it is none that the loop can log and count by.
    """
    if not isinstance(scalars, TensorDictBase) or "updates" not in scalars.keys():  # noqa: SIM118 - no Mapping
        found = sorted(scalars.keys()) if isinstance(scalars, TensorDictBase) else type(scalars).__name__
        raise ValueError(f"learn returned {found}, expected a TensorDict of scalars with 'updates' among them")
    for key, value in scalars.items():
        if value.numel() != 1:
            raise ValueError(f"learn returned {key!r} of shape {list(value.shape)}, expected a scalar")
    return {key: value.item() for key, value in zip(scalars.keys(), moved(list(scalars.values()), _HOST), strict=True)}


def _due(before: int, now: int, every: int | None) -> bool:
    """Whether a multiple of `every` lies in `(before, now]`."""
    return every is not None and now // every > before // every
