"""What is told of a run at its end: how far it came, what it reached, and how long a person waited for it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rlpipe.pipelines.config.run import settings_of
from rlpipe.pipelines.progress import Evaluation
from rlpipe.pipelines.runs.read import read_best
from rlpipe.pipelines.training.result import Result


class Stopwatch:
    """Measures how long a person waits for a run in this process.

    Args:
        since: when the wait began, on the clock of `time.perf_counter`; by default now.
    """

    def __init__(self, since: float | None = None) -> None:
        self._since = time.perf_counter() if since is None else since
        self._evaluation = 0.0
        self.trained_before = 0.0
        """Training seconds of the run before it was resumed."""

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Count what happens within as evaluation."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._evaluation += time.perf_counter() - began

    def read(self, trained: float) -> dict[str, float]:
        """Seconds in `all`, and the parts of them: `training`, `evaluation`, and the `rest`.

        The rest is what was imported, the start, checkpoints and pictures.

        Args:
            trained: training seconds of the run so far.
        """
        waited, training = time.perf_counter() - self._since, max(0.0, trained - self.trained_before)
        parts = {"all": waited, "training": training, "evaluation": self._evaluation}
        parts["rest"] = max(0.0, waited - training - self._evaluation)
        return {name: round(seconds, 3) for name, seconds in parts.items()}


def summarise(
    recipe: str, config: Any, result: Result, evaluation: Evaluation, folder: Path, waited: Mapping[str, float] | None
) -> dict[str, Any]:
    """The summary of a run: what `--json` prints; `waited` is what a `Stopwatch` has read, if the run was trained."""
    config, best = settings_of(config), read_best(folder)
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
        "waited": waited,
        "stopped_early": bool(result.stopped_by),
        "stopped_by": result.stopped_by,
        "longest_streak": result.longest_streak if config.stop_after_successes is not None else None,
        "evaluation": evaluation.summary(),
        "best": None if best is None else {"frames": best.frames, "mean": best.score, "checkpoint": str(best.path)},
        "run": str(folder),
    }
