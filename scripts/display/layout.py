"""What the live view of a run shows, and how it is laid out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlpipe.formatting import rate, share
from rlpipe.scripts.cli.text import printable
from rlpipe.scripts.display.run_stats import Facts, clock, number, summary_of
from rlpipe.scripts.display.sparkline import ASCII, BLOCKS, Series, resample, sparkline

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

_TALLEST = 8
_NEXT = " " * 3

Fact = tuple[str, str]
"""A label and a value."""


class View:
    """Lays out the facts for a terminal.

    Args:
        facts: what to show.
        ascii_only: draw with nothing else.
    """

    def __init__(self, facts: Facts, *, ascii_only: bool = False) -> None:
        self._facts, self._marks = facts, ASCII if ascii_only else BLOCKS
        self._ellipsis = "..." if ascii_only else "…"

    def render(self, width: int, height: int, now: float) -> Group:
        """The view, no wider and no higher than this, at a moment of the clock of `Facts.add`.

        Where the terminal is too low for all of it, the curve of the evaluations goes first, then the folder's line,
        then scalars.
        """
        from rich.console import Group

        facts = self._facts
        losses = sorted(facts.scalars.items(), key=lambda item: not item[0].startswith("loss_"))
        scalars = _table([(printable(key), f"{value:.3g}") for key, value in losses], width, height)
        title, folder = self._title(width, now), self._folder(width)
        counts, training, evaluation = (
            _flow(part, width) for part in (self._counts(now), self._returns(), self._evaluation())
        )
        spare = height - sum(map(len, (counts, training, evaluation, scalars))) - 3
        # lines between the parts if there is room
        gap = [_line()] * (spare >= 3 + 4)
        rows = max(1, min(_TALLEST, (spare - 3 * len(gap)) // 2))
        parts = [
            [title, *[folder] * (spare >= 1), self._bar(width), *counts],
            [*training, *self._curve(facts.returns, width, rows, "green")],
            [*evaluation, *self._curve(facts.evaluations, width, rows if spare >= 2 else 0, "cyan")],
            scalars,
        ]
        lines = [line for part in parts for line in (*part, *gap)]
        return Group(*lines[: min(height, len(lines) - len(gap))])

    def _title(self, width: int, now: float) -> Text:
        facts = self._facts
        doing = facts.ended or self._doing(now)
        title = _line((printable(facts.title), "bold"))
        title.truncate(max(1, width - len(doing) - len(_NEXT)))
        title.pad_right(max(0, width - title.cell_len - len(doing)))
        return title.append(doing, "yellow")

    def _folder(self, width: int) -> Text:
        """Its end tells one run from another."""
        from rich.cells import cell_len

        shown = whole = printable(str(self._facts.folder))
        while whole and cell_len(shown) > width - len("run "):
            whole = whole[1:]
            shown = self._ellipsis + whole
        return _line(("run ", "dim"), shown)

    def _doing(self, now: float) -> str:
        told = self._facts.now
        if told is None or told.stage == "starting":
            return "starting"
        if told.stage == "evaluating":
            return f"{'final evaluation' if told.final else 'evaluating'} {clock(now - self._facts.since)}"
        return "finished" if told.final else "training"

    def _bar(self, width: int) -> Text:
        frames = self._facts.now.frames if self._facts.now else 0
        done = min(width * frames // self._facts.total_frames, width)
        full, empty = ("#", "-") if self._marks == ASCII else ("━", "─")
        return _line((full * done, "green"), (empty * (width - done), "dim"))

    def _counts(self, now: float) -> list[Fact]:
        facts, told = self._facts, self._facts.now
        frames, episodes, updates = (told.frames, told.episodes, told.updates) if told else (0, 0, 0)
        speed = facts.speed.now
        return [
            ("frames", f"{frames:,} of {facts.total_frames:,} ({share(frames, facts.total_frames)})"),
            ("a second", "-" if speed is None else rate(speed)),
            ("elapsed", clock(now - facts.began)),
            ("left", clock(0.0 if facts.ended == "finished" else facts.left)),
            ("episodes", f"{episodes:,}"),
            ("updates", f"{updates:,}"),
        ]

    def _returns(self) -> list[Fact]:
        facts = self._facts
        if not facts.recent_episodes:
            return [("training return", "no episode has ended yet")]
        return [
            ("training return", f"{number(facts.mean_return)} over {facts.recent_episodes} episodes"),
            ("length", number(facts.mean_length)),
            ("range", f"{number(facts.returns.low)} to {number(facts.returns.high)}"),
        ]

    def _evaluation(self) -> list[Fact]:
        facts = self._facts
        if facts.last is None:
            return [("evaluation", "none yet")]
        frames, found = facts.last[0], summary_of(facts.last[1])
        best = [] if facts.best is None else [("best", f"{number(facts.best[1])} at frame {facts.best[0]:,}")]
        return [
            ("final evaluation" if facts.last_is_final else "evaluation", f"{found['mean']} +- {found['std']}"),
            ("range", f"{found['min']} to {found['max']}"),
            ("at frame", f"{frames:,}"),
            *best,
        ]

    def _curve(self, series: Series, width: int, rows: int, colour: str) -> list[Text]:
        until = self._facts.now.frames if self._facts.now else 0
        points = series.points()
        rows = min(rows, 1) if self._marks == ASCII else rows
        if not points:
            return []
        return [_line((line, colour)) for line in sparkline(resample(points, width, until), rows, self._marks)]


def _table(facts: Sequence[Fact], width: int, height: int) -> list[Text]:
    """Facts in columns, or where the terminal is low as close as it goes."""
    if height < 24 or not facts:
        return _flow(facts, width)
    labels, values = (max(map(len, column)) for column in zip(*facts, strict=True))
    columns = max(1, (width + len(_NEXT)) // (labels + 1 + values + len(_NEXT)))
    lines = []
    for start in range(0, len(facts), columns):
        line = _line()
        for label, value in facts[start : start + columns]:
            line.append(_NEXT if line else "").append(label.ljust(labels + 1), "dim").append(value.rjust(values))
        lines.append(line)
    return lines


def _flow(facts: Sequence[Fact], width: int) -> list[Text]:
    """As many facts to a line as it holds, in the first line that has room."""
    lines: list[Text] = []
    for label, value in facts:
        needed = len(label) + 1 + len(value)
        line = next((line for line in lines if line.cell_len + len(_NEXT) + needed <= width), None)
        if line is None:
            line = _line()
            lines.append(line)
        line.append(_NEXT if line else "").append(f"{label} ", "dim").append(value)
    return lines


def _line(*pieces: str | tuple[str, str]) -> Text:
    from rich.text import Text

    return Text.assemble(*pieces, no_wrap=True, overflow="crop")
