"""How a run's progress is shown on stderr (a bar, a live view, plain lines or nothing), and its summary at the end."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlpipe.errors import ConfigError
from rlpipe.formatting import duration, figure, rate, statistics
from rlpipe.pipelines.runs.layout import CURVE, WINDOW
from rlpipe.pipelines.training.progress_bar import ProgressBar
from rlpipe.scripts.display.live_view import history, report_failure, watching
from rlpipe.scripts.display.run_stats import RunStats, clock, format_return, summary_of
from rlpipe.scripts.display.starting import can_draw

if TYPE_CHECKING:
    from rlpipe.pipelines.progress import Listener, Progress
    from rlpipe.pipelines.session import Display
    from rlpipe.pipelines.training.signals import Interruption

_LINE_EVERY = 5.0


class PlainLines:
    """Prints a line every few seconds and one per evaluation, for output that is not a terminal."""

    def __init__(self, name: str, stats: RunStats, now: Callable[[], float] = time.monotonic) -> None:
        self._name, self._stats, self._now = name, stats, now
        self._next, self._new, self._failed = now() + _LINE_EVERY, False, False

    def __call__(self, progress: Progress) -> None:
        """Print what is new, if enough time has passed."""
        if self._failed:
            return
        # a failure to print must not stop the run
        try:
            self._tell(progress)
        except Exception as error:
            self._failed = True
            report_failure(error)

    def _tell(self, progress: Progress) -> None:
        self._stats.add(progress, self._now())
        if progress.evaluation is not None:
            kind, found = "final evaluation" if progress.final else "evaluation", summary_of(progress.evaluation)
            what = f"return {found['mean']} +- {found['std']} ({found['min']} to {found['max']})"
            what += f", success {found['success']}" if "success" in found else ""
            self._print(f"{kind} {what} at frame {progress.frames:,}")
        self._new = self._new or progress.stage == "training"
        if progress.stage == "training" and self._now() >= self._next:
            self._print_progress()

    def close(self) -> None:
        """Print the last progress, unless it is printed already."""
        if self._new and not self._failed:
            with contextlib.suppress(OSError):
                self._print_progress(over=True)

    def _print_progress(self, *, over: bool = False) -> None:
        stats, speed = self._stats, self._stats.speed.now
        known = stats.recent_episodes > 0
        mean = f"training return {format_return(stats.mean_return)}" if known else "no episode has ended yet"
        speed_and_time = "" if speed is None else f", {rate(speed)} frames a second"
        # a stopping rule may have ended the run early
        speed_and_time += "" if speed is None or over else f", {clock(stats.left)} left"
        self._print(f"{stats.frames:,} of {stats.total_frames:,} frames, {mean}{speed_and_time}")
        self._next, self._new = self._now() + _LINE_EVERY, False

    def _print(self, text: str) -> None:
        print(f"{self._name}: {text}", file=sys.stderr, flush=True)


def display(recipe: str, config: Any, *, watch: bool, quiet: bool) -> Display:
    """Make the progress display that a `Session` takes: a bar, or with `quiet` nothing.

    With `watch` it is a live view, or plain lines if stderr is not a terminal.

    Raises:
        ConfigError: both `watch` and `quiet` are set.
    """
    if watch and quiet:
        raise ConfigError("--watch shows the training and --quiet shows nothing; give one of them")
    if not watch:
        return lambda *_: contextlib.closing(ProgressBar(recipe, config.total_frames, quiet=quiet))
    title, window = f"{recipe} on {config.env_id}, seed {config.seed}", getattr(config, "curve_window", WINDOW)

    def watched(interruption: Interruption, folder: Path) -> AbstractContextManager[Listener]:
        stats = RunStats(title, folder, config.total_frames, window, time.monotonic(), history)
        if not can_draw():
            return contextlib.closing(PlainLines(recipe, stats))
        from rich.console import Console

        return watching(stats, Console(stderr=True), interruption)

    return watched


def describe(summary: Mapping[str, Any]) -> str:
    """Format the summary of a run."""
    evaluation, found = summary["evaluation"], statistics(summary["evaluation"])
    where = "" if summary["eval_env_id"] == summary["env_id"] else f" of {summary['eval_env_id']}"
    told = {
        "evaluation": f"return {found['mean']} +- {found['std']} over {evaluation['episodes']} greedy episodes"
        f"{where} ({found['min']} to {found['max']})"
    }
    if "success_rate" in evaluation:
        told["success"] = f"{evaluation['success_rate']:.1%} of them"
    if (best := summary["best"]) is not None:
        told["best"] = f"return {figure(best['mean'])} at frame {best['frames']:,}: {summary['run']}@best"
    told["frames"] = f"{summary['frames']:,} in {duration(summary['seconds'])} s of training"
    told["frames"] += f" ({rate(summary['frames_per_second'])} a second)"
    told["episodes"] = f"{summary['episodes']:,}, with {summary['updates']:,} updates"
    if (waited := summary["waited"]) is not None:
        told["time"] = _time(waited, resumed=waited["training"] != summary["seconds"])
    else:
        told["time"] = "none: the run was complete; --total-frames N trains it for longer"
    if summary["stopped_early"]:
        told["stopped"] = f"by {summary['stopped_by']}"
    if summary["longest_streak"] is not None:
        told["streak"] = f"{summary['longest_streak']} successes in a row at most"
    told |= {"run": summary["run"], "curve": str(Path(summary["run"]) / CURVE)}
    lines = [f"  {label:<10}  {text}" for label, text in told.items()]
    return "\n".join([f"{summary['recipe']} on {summary['env_id']}, seed {summary['seed']}", *lines])


def _time(waited: Mapping[str, float], *, resumed: bool) -> str:
    """How long a person waited, and for what."""
    decimals = 0 if waited["all"] >= 100 else 1
    total, *parts = (f"{waited[part]:.{decimals}f}" for part in ("all", "training", "evaluation", "rest"))
    since = "more" if resumed else "in all"
    return f"{total} s {since}: {parts[0]} training, {parts[1]} evaluation, {parts[2]} start and end"
