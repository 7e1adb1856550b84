"""The live view of `--watch`: curves of returns and evaluations, losses, and the time left."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlpipe.pipelines.runs import layout
from rlpipe.scripts.cli.text import printable
from rlpipe.scripts.display.layout import View
from rlpipe.scripts.display.run_stats import RunStats

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from rlpipe.pipelines.progress import Progress
    from rlpipe.pipelines.training.signals import Interruption

PER_SECOND = 5
"""Redraws per second."""
_LONGEST_EPISODE = 2**53


class InPlace:
    """Draws in place, and prints notes above; a failure to draw must not stop the run.

    The cursor stays visible, because a second Ctrl-C ends the process without restoring the terminal.
    """

    def __init__(self, console: Console) -> None:
        from rich.live import Live

        self._console, self._failed = console, False
        self._live = Live(console=console, auto_refresh=False, redirect_stdout=False, vertical_overflow="crop")
        self._notes: deque[str] = deque()

    def _safely(self, act: Callable[[], None]) -> None:
        """Call `act`, unless drawing has failed before."""
        if self._failed:
            return
        try:
            act()
        except Exception as error:
            self._failed = True
            with contextlib.suppress(Exception):
                self._live.stop()
            report_failure(error)

    def _begin(self) -> None:
        self._live.start()
        self._console.show_cursor(True)

    def _show(self, render: Callable[[int, int], RenderableType], *, soft_wrap: bool) -> None:
        while self._notes:
            self._console.print(self._notes.popleft(), markup=False, highlight=False, soft_wrap=soft_wrap)
        size = self._console.size
        self._live.update(render(size.width, size.height), refresh=True)


class Watch(InPlace):
    """Draws the view from its own thread; the training loop only queues what is new.

    If the view has failed, `announce` prints lines.
    """

    def __init__(self, stats: RunStats, console: Console, announce: Callable[[str], None]) -> None:
        super().__init__(console)
        self._stats, self._announce = stats, announce
        self._view = View(stats, ascii_only=not console.encoding.lower().startswith("utf"))
        self._news: deque[Progress] = deque()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._redraw, name="rlpipe watch", daemon=True)

    def __call__(self, progress: Progress) -> None:
        """Queue progress for the next redraw."""
        if not self._failed:
            self._news.append(progress)

    def announce(self, text: str) -> None:
        """Print a line above the view with the next redraw."""
        if self._failed:
            self._announce(text)
        else:
            self._notes.append(text)

    def start(self) -> None:
        """Draw the view, and start to redraw it."""
        self._safely(self._begin)
        self._safely(self._thread.start)

    def stop(self, how: str) -> None:
        """Draw the view a last time, with how the run ended, and leave it on the screen."""
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._stats.ended = how
        self._safely(self._draw)
        self._safely(self._live.stop)

    def _redraw(self) -> None:
        while not self._failed and not self._over.wait(1.0 / PER_SECOND):
            self._safely(self._draw)

    def _safely(self, act: Callable[[], None]) -> None:
        super()._safely(act)
        while self._failed and self._notes:
            with contextlib.suppress(OSError):
                self._announce(self._notes.popleft())

    def _draw(self) -> None:
        while self._news:
            self._stats.add(self._news.popleft(), time.monotonic())
        self._show(lambda width, height: self._view.render(width, height, time.monotonic()), soft_wrap=False)


@contextlib.contextmanager
def watching(stats: RunStats, console: Console, interruption: Interruption) -> Iterator[Watch]:
    """Show a live view of a run within the block; at the end it says how the run ended."""
    before, how = interruption.announce, "stopped"
    watch = Watch(stats, console, before)
    try:
        interruption.announce = watch.announce
        watch.start()
        yield watch
        how = "finished" if interruption.signal is None else how
    finally:
        interruption.announce = before
        watch.stop(how)


def report_failure(error: Exception) -> None:
    """Print that the progress display has stopped, and why."""
    reason = printable(f"{type(error).__name__}: {error}".rstrip(": "))
    with contextlib.suppress(OSError, ValueError):
        print(f"rlpipe: progress display stopped ({reason}); the run continues", file=sys.stderr, flush=True)


def history(folder: Path, frames: int) -> Iterator[Progress]:
    """Read the progress of a run from its folder, up to a frame, in order; damaged lines are skipped."""
    rows = [*_read_past(folder / layout.METRICS), *_read_past(folder / layout.EVALUATIONS)]
    yield from sorted((row for row in rows if row.frames <= frames), key=lambda row: row.frames)


def _read_past(path: Path) -> Iterator[Progress]:
    from rlpipe.pipelines.checkpoints.durable_files import DAMAGE, read_plain

    try:
        lines = read_plain(path).splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        with contextlib.suppress(*DAMAGE):
            if (row := _past_of(json.loads(line))) is not None:
                yield row


def _past_of(row: dict[str, Any]) -> Progress | None:
    """The progress that a row of either file stands for; `None` if its numbers are not valid."""
    from rlpipe.pipelines.progress import Evaluation, Progress

    frames, returns, lengths = row["frames"], tuple(map(float, row["returns"])), tuple(map(int, row["lengths"]))
    if type(frames) is not int or frames < 0 or len(returns) != len(lengths) or not all(map(math.isfinite, returns)):
        return None
    if not all(0 <= length <= _LONGEST_EPISODE for length in lengths):
        return None
    if "final" not in row:
        return Progress("training", frames, returns=returns, lengths=lengths)
    if row["final"] or not returns:
        return None
    return Progress("evaluated", frames, evaluation=Evaluation.from_json(row))
