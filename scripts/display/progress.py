"""What shows the progress of a run on stderr: a bar, a live view, plain lines, or nothing."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from rlpipe.errors import ConfigError
from rlpipe.formatting import figure, rate
from rlpipe.scripts.display.live_view import history, tell_of_failure, watching
from rlpipe.scripts.display.run_stats import Facts, clock, describe_evaluation, number

if TYPE_CHECKING:
    from rlpipe.pipelines.config.train import TrainConfig
    from rlpipe.pipelines.progress import Listener, Progress
    from rlpipe.pipelines.session import Display
    from rlpipe.pipelines.training.signals import Interruption

_SHOWN = {"success_rate": "success", "epsilon": "epsilon", "approx_kl": "KL"}
_LINE_EVERY = 5.0


class ProgressBar:
    """A tqdm bar on stderr: frames a second, latest return, last evaluation, epsilon or KL.

    Args:
        name: in front of the bar.
        total_frames: at its end.
        quiet: show nothing.
    """

    def __init__(self, name: str, total_frames: int, *, quiet: bool) -> None:
        from tqdm import tqdm

        # where stderr is a file, a line every ten seconds is enough
        interval = 0.1 if sys.stderr.isatty() else 10.0
        self._bar = tqdm(
            total=total_frames, desc=name, unit=" frames", unit_scale=True, disable=quiet, mininterval=interval
        )
        self._notes: dict[str, str] = {}

    def __call__(self, progress: Progress) -> None:
        """Show what is new."""
        if progress.stage == "starting":
            # what a resumed run had is no work of now
            self._bar.initial = self._bar.n = progress.frames
        if progress.returns:
            self._notes["return"] = figure(sum(progress.returns) / len(progress.returns))
        if progress.evaluation is not None:
            self._notes["evaluation"] = figure(progress.evaluation.mean)
        scalars = progress.scalars
        self._notes.update({name: f"{scalars[key]:.3g}" for key, name in _SHOWN.items() if key in scalars})
        self._bar.set_postfix(self._notes, refresh=False)
        self._bar.update(min(progress.frames, self._bar.total) - self._bar.n)

    def close(self) -> None:
        """Leave the bar as it is, and end its line."""
        self._bar.close()


class PlainLines:
    """A line every few seconds and one an evaluation, where there is no terminal to draw on.

    Args:
        name: in front of each.
        facts: what is known of the run.
        now: the clock, in seconds.
    """

    def __init__(self, name: str, facts: Facts, now: Callable[[], float] = time.monotonic) -> None:
        self._name, self._facts, self._now = name, facts, now
        self._next, self._new, self._failed = now() + _LINE_EVERY, False, False

    def __call__(self, progress: Progress) -> None:
        """Print what is new, if it is time."""
        if self._failed:
            return
        # what cannot be printed is no reason for the run to fail
        try:
            self._tell(progress)
        except Exception as error:
            self._failed = True
            tell_of_failure(error)

    def _tell(self, progress: Progress) -> None:
        self._facts.add(progress, self._now())
        if progress.evaluation is not None:
            kind = "final evaluation" if progress.final else "evaluation"
            self._print(f"{kind} {describe_evaluation(progress.frames, progress.evaluation)}")
        self._new = self._new or progress.stage == "training"
        if progress.stage == "training" and self._now() >= self._next:
            self._print_progress()

    def close(self) -> None:
        """Print how far it came, unless the last line has said so."""
        if self._new and not self._failed:
            with contextlib.suppress(OSError):
                self._print_progress(over=True)

    def _print_progress(self, *, over: bool = False) -> None:
        facts, told = self._facts, self._facts.now
        if told is None:
            return
        speed = facts.speed.now
        mean = f"return {number(facts.mean_return)}" if facts.recent_episodes else "no episode has ended yet"
        speed_and_time = "" if speed is None else f", {rate(speed)} frames a second"
        # a run may have ended by its own rule, far from its last frame
        speed_and_time += "" if speed is None or over else f", {clock(facts.left)} left"
        self._print(f"{told.frames:,} of {facts.total_frames:,} frames, {mean}{speed_and_time}")
        self._next, self._new = self._now() + _LINE_EVERY, False

    def _print(self, text: str) -> None:
        print(f"{self._name}: {text}", file=sys.stderr, flush=True)


def display(recipe: str, config: TrainConfig, *, watch: bool, quiet: bool) -> Display:
    """What a `Session` shows a run with.

    Args:
        recipe: its name.
        config: of the run.
        watch: a live view, or where stderr is no terminal plain lines, in place of the bar.
        quiet: show nothing.

    Raises:
        ConfigError: `watch` and `quiet` together.
    """
    if watch and quiet:
        raise ConfigError("--watch shows the training and --quiet shows nothing; give one of them")
    if not watch:
        return lambda *_: contextlib.closing(ProgressBar(recipe, config.total_frames, quiet=quiet))
    title = f"{recipe} on {config.env_id}, seed {config.seed}"

    def watched(interruption: Interruption, folder: Path) -> AbstractContextManager[Listener]:
        facts = Facts(title, folder, config.total_frames, config.curve_window, time.monotonic(), history)
        if not can_draw():
            return contextlib.closing(PlainLines(recipe, facts))
        from rich.console import Console

        return watching(facts, Console(stderr=True), interruption)

    return watched


def can_draw() -> bool:
    """Whether stderr is a terminal that a view can be drawn on."""
    return sys.stderr.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")
