"""Shows the progress of several seeds on stderr: a live table, plain lines, or nothing."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rlpipe.formatting import rate, share
from rlpipe.scripts.cli.text import printable
from rlpipe.scripts.display.layout import header
from rlpipe.scripts.display.live_view import InPlace
from rlpipe.scripts.display.run_stats import RunStats, clock, format_return, summary_of

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_COLUMNS = ("seed", "state", "frames", "done", "a second", "left", "training return", "evaluation return")
_OPTIONAL = (4, 3, 7, 5)
"""Columns that are left out on a narrow terminal, in this order."""
_GAP = 2
_PER_SECOND = 5
_LINE_EVERY = 5.0
_COLOURS = {"finished": "green", "failed": "red", "stopped": "yellow", "waiting": "dim"}
_URGENT = ("failed", "stopped", "running", "finished", "waiting")


@dataclass
class Seed:
    """The run of a seed; `ended` is `finished`, `failed` or `stopped`, or empty before its end."""

    stats: RunStats
    ended: str = ""
    begun: bool = False

    @property
    def phase(self) -> str:
        """How the run ended, `running` or `waiting`."""
        return self.ended or ("running" if self.begun else "waiting")

    @property
    def state(self) -> str:
        """What the run is doing."""
        return self.stats.stage if self.phase == "running" else self.phase

    def cells(self, seed: int) -> tuple[str, ...]:
        """The cells of the seed's line in the table."""
        stats, speed = self.stats, self.stats.speed.now
        found = None if stats.last is None else summary_of(stats.last[1])
        return (
            str(seed),
            self.state,
            f"{stats.frames:,}" if self.begun else "",
            share(stats.frames, stats.total_frames) if self.begun else "",
            rate(speed) if speed is not None else "",
            clock(stats.left) if self.phase == "running" else "",
            format_return(stats.mean_return) if stats.recent_episodes else "",
            f"{found['mean']} +- {found['std']}" if found else "",
        )


@dataclass
class SeedTable:
    """The table of all seeds, in order; the title names recipe and environment."""

    title: str
    all: Mapping[int, Seed]
    began: float = field(default_factory=time.monotonic)

    def counts(self) -> str:
        """Number of seeds in each state."""
        states = Counter(each.phase for each in self.all.values())
        order = ("finished", "failed", "stopped", "running", "waiting")
        return ", ".join(f"{states[state]} {state}" for state in order if states[state])

    def render(self, width: int, height: int) -> Text:
        """Draw the table in at most `width` columns and `height` rows; seeds that do not fit are counted."""
        from rich.text import Text

        shown = self._chosen(max(1, height - 3))
        cells = {seed: self.all[seed].cells(seed) for seed in shown}
        columns = _fitting([_COLUMNS, *cells.values()], width)
        right = f"{self.counts()}  {clock(time.monotonic() - self.began)}"
        lines = [header(self.title, right, width, _GAP), _laid_out(_COLUMNS, columns, "dim")]
        lines += [_laid_out(row, columns, _COLOURS.get(self.all[seed].state, "")) for seed, row in cells.items()]
        if hidden := len(self.all) - len(shown):
            lines.append(Text(f"and {hidden} more seeds, which do not fit here", "dim"))
        for line in lines:
            line.truncate(width)
        return Text("\n", no_wrap=True, overflow="crop").join(lines[:height])

    def _chosen(self, room: int) -> list[int]:
        """The seeds to show, in order; failed and running ones take precedence over finished and waiting ones."""
        ranked = sorted(self.all, key=lambda seed: _URGENT.index(self.all[seed].phase))
        kept = set(ranked[:room])
        return [seed for seed in self.all if seed in kept]


class NoTable:
    """Shows nothing but the warnings of the runs; the base of the other displays."""

    def announce(self, text: str) -> None:
        """Print a line."""
        write_line(text)

    def report(self, seed: int) -> None:
        """Show that a seed has started or ended."""

    def draw(self, *, last: bool = False) -> None:
        """Show the progress, if enough time has passed or it is the last time."""

    def close(self) -> None:
        """Show the progress for the last time."""


class LiveTable(InPlace, NoTable):
    """A table that is drawn in place, at most a few times per second."""

    def __init__(self, seeds: SeedTable, console: Console) -> None:
        super().__init__(console)
        self._seeds, self._next = seeds, 0.0
        self._safely(self._begin)

    def announce(self, text: str) -> None:
        """Print a line above the table with the next `draw`; signal handlers call this too."""
        self._notes.append(text)

    def draw(self, *, last: bool = False) -> None:
        while self._failed and self._notes:
            write_line(self._notes.popleft())
        if not last and not self._notes and time.monotonic() < self._next:
            return
        self._next = time.monotonic() + 1.0 / _PER_SECOND
        self._safely(lambda: self._show(self._seeds.render, soft_wrap=True))

    def close(self) -> None:
        """Draw the table a last time, and leave it on the screen."""
        self.draw(last=True)
        self._safely(self._live.stop)


class PlainTable(NoTable):
    """Prints a line when a seed starts or ends, and every few seconds a line about those that run."""

    def __init__(self, seeds: SeedTable) -> None:
        self._seeds, self._next, self._last = seeds, time.monotonic() + _LINE_EVERY, ""

    def report(self, seed: int) -> None:
        known = self._seeds.all[seed]
        found = known.stats.last
        result = f", evaluation return {format_return(found[1].mean)}" if found and known.ended else ""
        frames = f" at frame {known.stats.frames:,}" if known.ended else ""
        where = printable(str(known.stats.folder))
        write_line(f"{self._seeds.title}: seed {seed} {known.ended or 'started'}{frames}{result}, {where}")

    def draw(self, *, last: bool = False) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _LINE_EVERY
        running = [
            f"seed {seed} {known.state}, {known.stats.frames:,} of {known.stats.total_frames:,} frames"
            for seed, known in self._seeds.all.items()
            if known.phase == "running"
        ]
        text = f"{self._seeds.title}: {'; '.join([self._seeds.counts(), *running])}"
        if text != self._last:
            write_line(text)
        self._last = text


def write_line(text: str) -> None:
    """Print a line on stderr; errors are ignored."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def _fitting(rows: Sequence[Sequence[str]], width: int) -> dict[int, int]:
    """The widths of the columns that fit."""
    columns = {index: max(len(row[index]) for row in rows) for index in range(len(_COLUMNS))}
    for index in _OPTIONAL:
        if sum(columns.values()) + _GAP * (len(columns) - 1) > width:
            del columns[index]
    return columns


def _laid_out(row: Sequence[str], columns: Mapping[int, int], style: str) -> Text:
    from rich.text import Text

    # words are aligned left, numbers right
    cells = [row[index].ljust(size) if index == 1 else row[index].rjust(size) for index, size in columns.items()]
    return Text((" " * _GAP).join(cells), style)
