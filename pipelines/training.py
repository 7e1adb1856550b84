"""The training loop: the only one."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tensordict import TensorDictBase

from rlpipe.errors import TrainingError
from rlpipe.pipelines.evaluation import Evaluation
from rlpipe.pipelines.pipeline import Pipeline
from rlpipe.pipelines.run import Run

Progress = Callable[[int, Mapping[str, float], list[float]], None]
"""Told after each batch: frames so far, the batch's scalars, and the returns of the episodes that ended in it."""


@dataclass
class Result:
    """How far training came.

    Args:
        frames: environment steps.
        updates: gradient steps.
        episodes: episodes that ended.
        seconds: of collecting and learning; evaluation and checkpoints are not counted.
        stopped_early: a stopping rule ended it.
    """

    frames: int = 0
    updates: int = 0
    episodes: int = 0
    seconds: float = 0.0
    stopped_early: bool = False

    @property
    def frames_per_second(self) -> float:
        """Frames over training seconds."""
        return self.frames / self.seconds if self.seconds else 0.0

    def state_dict(self) -> dict[str, float]:
        """The counters, for a checkpoint."""
        return dict(vars(self))

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Continue from a `state_dict`."""
        vars(self).update(state)


def train(
    pipeline: Pipeline,
    run: Run,
    *,
    evaluate: Callable[[], Evaluation] | None = None,
    eval_every: int | None = None,
    checkpoint_every: int | None = None,
    stop_at_return: float | None = None,
    total_episodes: int | None = None,
    progress: Progress | None = None,
) -> Result:
    """Collect, learn, log, and at intervals evaluate and checkpoint, until the collector has its frames.

    Args:
        pipeline: what to train; its collector knows the total number of frames.
        run: the folder to write into.
        evaluate: evaluates the pipeline's policy.
        eval_every: frames from one evaluation to the next.
        checkpoint_every: frames from one checkpoint to the next; there is always one at the end.
        stop_at_return: stop once an evaluation's mean return reaches this.
        total_episodes: stop once this many episodes have ended.
        progress: told after each batch.

    Raises:
        TrainingError: a loss or gradient became NaN or infinite; names the frame, the term and the last checkpoint.
    """
    result = Result()
    batches = iter(pipeline.collector)
    while not result.stopped_early:
        started, before = time.perf_counter(), result.frames
        batch = next(batches, None)
        if batch is None:
            break
        learned = {key: value.item() for key, value in pipeline.learn(batch).items()}
        returns, lengths = finished_episodes(batch)
        result.frames += batch.numel()
        result.updates += int(learned["updates"])
        result.episodes += len(returns)
        _check_finite(learned, result.frames, run)
        result.seconds += time.perf_counter() - started
        speed = {"seconds": result.seconds, "frames_per_second": result.frames_per_second}
        run.log_batch(result.frames, {**learned, **speed}, returns, lengths)
        if progress is not None:
            progress(result.frames, {**learned, **speed}, returns)
        result.stopped_early = total_episodes is not None and result.episodes >= total_episodes
        if evaluate is not None and _due(before, result.frames, eval_every):
            evaluation = evaluate()
            run.log_evaluation(result.frames, evaluation)
            result.stopped_early |= stop_at_return is not None and evaluation.mean >= stop_at_return
        if _due(before, result.frames, checkpoint_every):
            _checkpoint(pipeline, run, result)
    _checkpoint(pipeline, run, result)
    return result


def finished_episodes(batch: TensorDictBase) -> tuple[list[float], list[int]]:
    """Returns and lengths of the episodes that ended in a batch `[num_envs, T]`, in the order in which they ended."""
    after = batch.get("next").transpose(0, 1)
    ended = after.get("done").squeeze(-1)
    returns, lengths = after.get("episode_reward")[ended], after.get("step_count")[ended]
    return returns.flatten().tolist(), lengths.flatten().tolist()


def _due(before: int, now: int, every: int | None) -> bool:
    """Whether a multiple of `every` lies in `(before, now]`."""
    return every is not None and now // every > before // every


def _checkpoint(pipeline: Pipeline, run: Run, result: Result) -> None:
    """Write a checkpoint, but none of weights that the last gradient step has ruined."""
    for name, weight in pipeline.policy.named_parameters():
        if not weight.isfinite().all():
            raise _diverged(result.frames, f"weight {name}", "not finite", run)
    run.checkpoint(result.frames, {**pipeline.state, "progress": result})


def _check_finite(scalars: Mapping[str, float], frames: int, run: Run) -> None:
    for key, value in scalars.items():
        if (key.startswith("loss") or key == "grad_norm") and not math.isfinite(value):
            raise _diverged(frames, key, str(value), run)


def _diverged(frames: int, what: str, value: str, run: Run) -> TrainingError:
    last = run.last_checkpoint()
    kept = f"the last good checkpoint is {last}" if last else "there is no checkpoint yet"
    return TrainingError(f"training stopped at frame {frames}: {what} is {value}; {kept}")
