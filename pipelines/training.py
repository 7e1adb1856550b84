"""The training loop: the only one."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tensordict import TensorDictBase
from torch import Tensor

from rlpipe.errors import TrainingError
from rlpipe.pipelines.evaluation import Evaluation
from rlpipe.pipelines.pipeline import Pipeline
from rlpipe.pipelines.run import Run
from rlpipe.pipelines.stopping import StoppingRule

Progress = Callable[[int, Mapping[str, float], list[float]], None]
"""Told with each line of metrics: frames so far, its scalars, and the returns of the episodes that ended."""


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

    def state_dict(self) -> dict[str, Any]:
        """The counters, for a checkpoint."""
        return dict(vars(self))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`."""
        vars(self).update(state)


@dataclass
class _Line:
    """What one line of metrics is made of: some batches in a row."""

    scalars: list[dict[str, float]] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)

    def add(self, scalars: dict[str, float], returns: list[float], lengths: list[int]) -> None:
        self.scalars.append(scalars)
        self.returns += returns
        self.lengths += lengths

    def means(self) -> dict[str, float]:
        """Each scalar's mean over the batches that have it; updates are counted together."""
        keys = dict.fromkeys(key for row in self.scalars for key in row)
        columns = {key: [row[key] for row in self.scalars if key in row] for key in keys}
        return {key: sum(column) if key == "updates" else sum(column) / len(column) for key, column in columns.items()}


def train(
    pipeline: Pipeline,
    run: Run,
    *,
    evaluate: Callable[[], Evaluation] | None = None,
    eval_every: int | None = None,
    checkpoint_every: int | None = None,
    stopping: StoppingRule | None = None,
    log_every: int = 1,
    progress: Progress | None = None,
) -> Result:
    """Collect, learn, log, and at intervals evaluate and checkpoint, until the collector has its frames.

    Args:
        pipeline: what to train; its collector knows the total number of frames.
        run: the folder to write into.
        evaluate: evaluates the pipeline's policy.
        eval_every: frames from one evaluation to the next.
        checkpoint_every: frames from one checkpoint to the next; there is always one at the end.
        stopping: ends the run before its frames do; by default nothing does.
        log_every: frames from one line of metrics to the next, at least a batch.
        progress: told with each line.

    Raises:
        TrainingError: a loss or gradient became NaN or infinite; names the frame, the term and the last checkpoint.
    """
    result, line, stopping = Result(), _Line(), stopping or StoppingRule()
    batches = iter(pipeline.collector)
    while not stopping.reason:
        started, before = time.perf_counter(), result.frames
        batch = next(batches, None)
        if batch is None:
            break
        learned = {key: value.item() for key, value in pipeline.learn(batch).items()}
        returns, lengths = finished_episodes(batch)
        _count(result, batch, learned, returns)
        _check_finite(learned, result.frames, run)
        stopping.after_batch(returns, learned)
        result.longest_streak = stopping.longest_streak
        line.add(learned, returns, lengths)
        result.seconds += time.perf_counter() - started
        if stopping.reason or _due(before, result.frames, log_every):
            line = _write(line, result, run, progress)
        if evaluate is not None and _due(before, result.frames, eval_every):
            evaluation = evaluate()
            run.log_evaluation(result.frames, evaluation, seconds=result.seconds)
            stopping.after_evaluation(evaluation.mean)
        if _due(before, result.frames, checkpoint_every):
            _checkpoint(pipeline, run, result, stopping)
    _write(line, result, run, progress)
    result.stopped_by = stopping.reason
    _checkpoint(pipeline, run, result, stopping)
    return result


def _count(result: Result, batch: TensorDictBase, learned: Mapping[str, float], returns: list[float]) -> None:
    result.frames += batch.numel()
    result.updates += int(learned["updates"])
    result.episodes += len(returns)


def _write(line: _Line, result: Result, run: Run, progress: Progress | None) -> _Line:
    """Write a line of metrics, if there is anything in it, and begin the next."""
    if line.scalars:
        scalars = {**line.means(), "seconds": result.seconds, "frames_per_second": result.frames_per_second}
        run.log_batch(result.frames, scalars, line.returns, line.lengths)
        if progress is not None:
            progress(result.frames, scalars, line.returns)
    return _Line()


def finished_episodes(batch: TensorDictBase) -> tuple[list[float], list[int]]:
    """Returns and lengths of the episodes that ended in a batch `[num_envs, T]`, in the order in which they ended."""
    after = batch.get("next").transpose(0, 1)
    ended = after.get("done").squeeze(-1)
    returns, lengths = after.get("episode_reward")[ended], after.get("step_count")[ended]
    return returns.flatten().tolist(), lengths.flatten().tolist()


def _due(before: int, now: int, every: int | None) -> bool:
    """Whether a multiple of `every` lies in `(before, now]`."""
    return every is not None and now // every > before // every


def _checkpoint(pipeline: Pipeline, run: Run, result: Result, stopping: StoppingRule) -> None:
    """Write a checkpoint, but none of weights that the last gradient step has ruined."""
    for name, weight in pipeline.policy.state_dict().items():
        if isinstance(weight, Tensor) and not weight.isfinite().all():
            raise _diverged(result.frames, f"weight {name}", "not finite", run)
    run.checkpoint(result.frames, {**pipeline.state, "progress": result, "stopping": stopping})


def _check_finite(scalars: Mapping[str, float], frames: int, run: Run) -> None:
    for key, value in scalars.items():
        if not math.isfinite(value):
            raise _diverged(frames, key, str(value), run)


def _diverged(frames: int, what: str, value: str, run: Run) -> TrainingError:
    last = run.last_checkpoint()
    kept = f"the last good checkpoint is {last}" if last else "there is no checkpoint yet"
    return TrainingError(f"training stopped at frame {frames}: {what} is {value}; {kept}")
