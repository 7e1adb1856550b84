"""What shows the progress of several seeds on stderr: a live table, plain lines, or nothing."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rlpipe.formatting import rate, share
from rlpipe.scripts.cli.text import printable
from rlpipe.scripts.display.live_view import tell_of_failure
from rlpipe.scripts.display.run_stats import Facts, clock, number, summary_of

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_COLUMNS = ("seed", "state", "frames", "done", "a second", "left", "return", "evaluation")
_OPTIONAL = (4, 3, 7, 5)
"""Columns that a narrow terminal does without, the first one first."""
_GAP = 2
_PER_SECOND = 5
_LINE_EVERY = 5.0
_COLOURS = {"finished": "green", "failed": "red", "stopped": "yellow", "waiting": "dim"}
_URGENT = ("failed", "stopped", "", "finished", "waiting")


@dataclass
class Seed:
    """What is known of a seed's run.

    Args:
        facts: of its training.
        ended: `finished`, `failed` or `stopped`, or nothing as long as it goes on.
        begun: whether it has begun.
    """

    facts: Facts
    ended: str = ""
    begun: bool = False

    @property
    def state(self) -> str:
        """What it does."""
        told = self.facts.now
        if self.ended or not self.begun:
            return self.ended or "waiting"
        if told is None or told.stage == "starting":
            return "starting"
        if told.stage == "evaluating":
            return "final evaluation" if told.final else "evaluating"
        return "training"

    @property
    def frames(self) -> int:
        """So far."""
        return self.facts.now.frames if self.facts.now else 0

    def cells(self, seed: int) -> tuple[str, ...]:
        """A line of the table."""
        facts, runs = self.facts, self.begun and not self.ended
        speed = facts.speed.now
        found = None if facts.last is None else summary_of(facts.last[1])
        return (
            str(seed),
            self.state,
            f"{self.frames:,}" if self.begun else "",
            share(self.frames, facts.total_frames) if self.begun else "",
            rate(speed) if speed is not None else "",
            clock(facts.left) if runs else "",
            number(facts.mean_return) if facts.recent_episodes else "",
            f"{found['mean']} +- {found['std']}" if found else "",
        )


@dataclass
class Seeds:
    """All seeds, in their order.

    Args:
        title: recipe and environment.
        all: what is known of each.
        began: on the monotonic clock.
    """

    title: str
    all: Mapping[int, Seed]
    began: float = field(default_factory=time.monotonic)

    def counts(self) -> str:
        """How many are in which state."""
        states = Counter("running" if each.begun and not each.ended else each.state for each in self.all.values())
        order = ("finished", "failed", "stopped", "running", "waiting")
        return ", ".join(f"{states[state]} {state}" for state in order if states[state])

    def render(self, width: int, height: int) -> Text:
        """The table, no wider and no higher than this; what there is no room for is counted."""
        from rich.text import Text

        shown = self._chosen(max(1, height - 3))
        cells = {seed: self.all[seed].cells(seed) for seed in shown}
        columns = _fitting([_COLUMNS, *cells.values()], width)
        right = f"{self.counts()}  {clock(time.monotonic() - self.began)}"
        lines = [_ends(printable(self.title), right, width), _laid_out(_COLUMNS, columns, "dim")]
        lines += [_laid_out(row, columns, _COLOURS.get(self.all[seed].state, "")) for seed, row in cells.items()]
        if hidden := len(self.all) - len(shown):
            lines.append(Text(f"and {hidden} more seeds, for which there is no room here", "dim"))
        for line in lines:
            line.truncate(width)
        return Text("\n", no_wrap=True, overflow="crop").join(lines[:height])

    def _chosen(self, room: int) -> list[int]:
        """In the order of seeds: what failed and what runs before what has finished or waits."""
        ranked = sorted(self.all, key=lambda seed: _URGENT.index(_rank(self.all[seed])))
        kept = set(ranked[:room])
        return [seed for seed in self.all if seed in kept]


class LiveTable:
    """A table that is drawn in place, whenever `draw` is called, but not too often.

    Args:
        seeds: what to show.
        console: where.
    """

    def __init__(self, seeds: Seeds, console: Console) -> None:
        from rich.live import Live

        self._seeds, self._console, self._next, self._failed = seeds, console, 0.0, False
        self._live = Live(console=console, auto_refresh=False, redirect_stdout=False, vertical_overflow="crop")
        self._notes: deque[str] = deque()
        self._survive(self._begin)

    def announce(self, text: str) -> None:
        """Print a line above the table with the next `draw`; also called in a signal's handler."""
        self._notes.append(text)

    def tell(self, seed: int) -> None:
        """The table tells it."""

    def draw(self, *, last: bool = False) -> None:
        """Draw the table, if it is time."""
        if not last and not self._notes and time.monotonic() < self._next:
            return
        self._next = time.monotonic() + 1.0 / _PER_SECOND
        self._survive(self._redraw)

    def close(self) -> None:
        """Leave the last table on the screen."""
        self.draw(last=True)
        self._survive(self._live.stop)

    def _begin(self) -> None:
        self._live.start()
        # a second Ctrl-C ends the process without any way back
        self._console.show_cursor(True)

    def _redraw(self) -> None:
        while self._notes:
            self._console.print(self._notes.popleft(), markup=False, highlight=False, soft_wrap=True)
        size = self._console.size
        self._live.update(self._seeds.render(size.width, size.height), refresh=True)

    def _survive(self, act: Callable[[], None]) -> None:
        """A terminal that has gone is no reason to end the runs."""
        if self._failed:
            return
        try:
            act()
        except Exception as error:
            self._failed = True
            with contextlib.suppress(Exception):
                self._live.stop()
            tell_of_failure(error)


class PlainTable:
    """A line when a seed begins or ends, and every few seconds one of those that run.

    Args:
        seeds: what to tell of.
    """

    def __init__(self, seeds: Seeds) -> None:
        self._seeds, self._next, self._last = seeds, time.monotonic() + _LINE_EVERY, ""

    def announce(self, text: str) -> None:
        """Print a line."""
        write_line(text)

    def tell(self, seed: int) -> None:
        """Print that a seed has begun or ended."""
        known = self._seeds.all[seed]
        found = known.facts.last
        result = f", evaluation {number(found[1].mean)}" if found and known.ended else ""
        frames = f" at frame {known.frames:,}" if known.ended else ""
        where = printable(str(known.facts.folder))
        write_line(f"{self._seeds.title}: seed {seed} {known.ended or 'begun'}{frames}{result}, {where}")

    def draw(self) -> None:
        """Print how far the seeds are that run, if it is time."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _LINE_EVERY
        running = [
            f"seed {seed} {known.state}, {known.frames:,} of {known.facts.total_frames:,} frames"
            for seed, known in self._seeds.all.items()
            if known.begun and not known.ended
        ]
        text = f"{self._seeds.title}: {'; '.join([self._seeds.counts(), *running])}"
        if text != self._last:
            write_line(text)
        self._last = text

    def close(self) -> None:
        """Nothing is left to say."""


class NoTable:
    """Nothing but what the runs themselves have to say, such as warnings."""

    def announce(self, text: str) -> None:
        """Print a line."""
        write_line(text)

    def tell(self, seed: int) -> None:
        """Not wanted."""

    def draw(self) -> None:
        """Not wanted."""

    def close(self) -> None:
        """Nothing is left to say."""


def write_line(text: str) -> None:
    """Print a line on stderr, if it can be."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def _rank(seed: Seed) -> str:
    return seed.ended or ("" if seed.begun else "waiting")


def _fitting(rows: Sequence[Sequence[str]], width: int) -> dict[int, int]:
    """Widths of the columns that fit."""
    columns = {index: max(len(row[index]) for row in rows) for index in range(len(_COLUMNS))}
    for index in _OPTIONAL:
        if sum(columns.values()) + _GAP * (len(columns) - 1) > width:
            del columns[index]
    return columns


def _laid_out(row: Sequence[str], columns: Mapping[int, int], style: str) -> Text:
    from rich.text import Text

    # words to the left, numbers to the right
    cells = [row[index].ljust(size) if index == 1 else row[index].rjust(size) for index, size in columns.items()]
    return Text((" " * _GAP).join(cells), style)


def _ends(left: str, right: str, width: int) -> Text:
    from rich.text import Text

    title = Text(left, "bold")
    title.truncate(max(1, width - len(right) - _GAP))
    title.pad_right(max(0, width - title.cell_len - len(right)))
    return title.append(right, "yellow")
