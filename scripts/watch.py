"""The live view of `--watch`: a curve of the returns, evaluations, losses and how long it will take."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rlpipe.scripts.facts import Facts
from rlpipe.scripts.view import View

if TYPE_CHECKING:
    from rich.console import Console

    from rlpipe.pipelines.interruption import Interruption
    from rlpipe.pipelines.progress import Progress

PER_SECOND = 5
"""Redraws, whatever the number of batches."""


class Watch:
    """Draws the view in place, from a thread of its own; `train` only leaves word.

    The cursor stays visible all the time, since a second Ctrl-C ends the process without any way back.

    Args:
        facts: what is known of the run.
        console: where to draw.
    """

    def __init__(self, facts: Facts, console: Console) -> None:
        from rich.live import Live

        self._facts, self._console = facts, console
        self._view = View(facts, ascii_only=not console.encoding.lower().startswith("utf"))
        self._live = Live(console=console, auto_refresh=False, redirect_stdout=False, vertical_overflow="crop")
        self._news: deque[Progress] = deque()
        self._notes: deque[str] = deque()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._redraw, name="rlpipe watch", daemon=True)

    def __call__(self, progress: Progress) -> None:
        """Take note; the next redraw shows it."""
        self._news.append(progress)

    def announce(self, text: str) -> None:
        """Print a line above the view with the next redraw."""
        self._notes.append(text)

    def start(self) -> None:
        """Draw the view, and again from now on."""
        self._live.start()
        self._console.show_cursor(True)
        self._thread.start()

    def stop(self, how: str) -> None:
        """Draw the last view, say how it ended, and leave it on the screen."""
        # a terminal that has gone is no reason for the run to fail
        with contextlib.suppress(OSError):
            try:
                self._over.set()
                self._thread.join()
                self._facts.ended = how
                self._draw()
            finally:
                self._live.stop()

    def _redraw(self) -> None:
        # a terminal that has gone ends the view, and not the run
        with contextlib.suppress(OSError):
            while not self._over.wait(1.0 / PER_SECOND):
                self._draw()

    def _draw(self) -> None:
        while self._news:
            self._facts.add(self._news.popleft(), time.monotonic())
        while self._notes:
            self._console.print(self._notes.popleft(), markup=False, highlight=False)
        size = self._console.size
        self._live.update(self._view.render(size.width, size.height, time.monotonic()), refresh=True)


@contextlib.contextmanager
def watching(facts: Facts, console: Console, interruption: Interruption) -> Iterator[Watch]:
    """A live view of a run, on until the end; it says how that was."""
    watch, how = Watch(facts, console), "stopped"
    before, interruption.announce = interruption.announce, watch.announce
    watch.start()
    try:
        yield watch
        how = "finished" if interruption.signal is None else how
    finally:
        interruption.announce = before
        watch.stop(how)


def history(folder: Path, frames: int) -> Iterator[Progress]:
    """What a run folder tells of the frames before a resume, in order; nothing, if it cannot be read."""
    from rlpipe.pipelines.curve import read_lines
    from rlpipe.pipelines.evaluation import Evaluation
    from rlpipe.pipelines.progress import Progress

    try:
        rows = read_lines(folder / "metrics.jsonl") + read_lines(folder / "evaluations.jsonl")
        for row in sorted((row for row in rows if row["frames"] <= frames), key=lambda row: row["frames"]):
            returns, lengths = tuple(map(float, row["returns"])), tuple(map(int, row["lengths"]))
            if "final" not in row:
                yield Progress("training", row["frames"], returns=returns, lengths=lengths)
            elif not row["final"] and returns:
                yield Progress("evaluated", row["frames"], evaluation=Evaluation(returns, lengths))
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return
