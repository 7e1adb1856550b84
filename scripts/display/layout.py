"""The content and the layout of the live view of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlpipe.formatting import rate, share
from rlpipe.scripts.cli.text import printable
from rlpipe.scripts.display.run_stats import RunStats, clock, format_return, summary_of
from rlpipe.scripts.display.sparkline import ASCII, BLOCKS, Series, resample, sparkline

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

_TALLEST = 8
_NEXT = " " * 3

Fact = tuple[str, str]
"""A label and a value."""


class View:
    """Lays out the statistics of a run for a terminal, which may only show ASCII characters."""

    def __init__(self, stats: RunStats, *, ascii_only: bool = False) -> None:
        self._stats, self._marks = stats, ASCII if ascii_only else BLOCKS
        self._ellipsis = "..." if ascii_only else "…"

    def render(self, width: int, height: int, now: float) -> Group:
        """Draw the view in at most `width` columns and `height` rows; `now` is on the clock of `RunStats.add`.

        If there are too few rows, the curve of the evaluations is left out first, then the run folder, then scalars.
        """
        from rich.console import Group

        stats = self._stats
        losses = sorted(stats.scalars.items(), key=lambda item: not item[0].startswith("loss_"))
        scalars = _table([(printable(key), f"{value:.3g}") for key, value in losses], width, height)
        title, folder = self._title(width, now), self._folder(width)
        counts, training, evaluation = (
            _flow(part, width) for part in (self._counts(now), self._returns(), self._evaluation())
        )
        spare = height - sum(map(len, (counts, training, evaluation, scalars))) - 3
        # empty lines between the parts if there is room
        gap = [_line()] * (spare >= 3 + 4)
        rows = max(1, min(_TALLEST, (spare - 3 * len(gap)) // 2))
        parts = [
            [title, *[folder] * (spare >= 1), self._bar(width), *counts],
            [*training, *self._curve(stats.returns, width, rows, "green")],
            [*evaluation, *self._curve(stats.evaluations, width, rows if spare >= 2 else 0, "cyan")],
            scalars,
        ]
        lines = [line for part in parts for line in (*part, *gap)]
        return Group(*lines[: min(height, len(lines) - len(gap))])

    def _title(self, width: int, now: float) -> Text:
        return header(self._stats.title, self._stats.ended or self._doing(now), width, len(_NEXT))

    def _folder(self, width: int) -> Text:
        """The run folder; the end of the path is kept, because it tells runs apart."""
        from rich.cells import cell_len

        shown = whole = printable(str(self._stats.folder))
        while whole and cell_len(shown) > width - len("run "):
            whole = whole[1:]
            shown = self._ellipsis + whole
        return _line(("run ", "dim"), shown)

    def _doing(self, now: float) -> str:
        latest, stage = self._stats.now, self._stats.stage
        if latest is not None and latest.stage == "evaluating":
            return f"{stage} {clock(now - self._stats.since)}"
        return "finished" if latest is not None and latest.final and stage == "training" else stage

    def _bar(self, width: int) -> Text:
        done = min(width * self._stats.frames // self._stats.total_frames, width)
        full, empty = ("#", "-") if self._marks == ASCII else ("━", "─")
        return _line((full * done, "green"), (empty * (width - done), "dim"))

    def _counts(self, now: float) -> list[Fact]:
        stats, latest = self._stats, self._stats.now
        episodes, updates = (latest.episodes, latest.updates) if latest else (0, 0)
        speed = stats.speed.now
        return [
            ("frames", f"{stats.frames:,} of {stats.total_frames:,} ({share(stats.frames, stats.total_frames)})"),
            ("a second", "-" if speed is None else rate(speed)),
            ("elapsed", clock(now - stats.began)),
            ("left", clock(0.0 if stats.ended == "finished" else stats.left)),
            ("episodes", f"{episodes:,}"),
            ("updates", f"{updates:,}"),
        ]

    def _returns(self) -> list[Fact]:
        stats = self._stats
        if not stats.recent_episodes:
            return [("training return", "no episode has ended yet")]
        return [
            ("training return", f"{format_return(stats.mean_return)} over {stats.recent_episodes} episodes"),
            ("length", format_return(stats.mean_length)),
            ("scale", " to ".join(map(format_return, self._scale()))),
        ]

    def _scale(self) -> tuple[float, float]:
        """The ends of the scale of both curves, so that they can be compared."""
        both = self._stats.returns, self._stats.evaluations
        return min(each.low for each in both), max(each.high for each in both)

    def _evaluation(self) -> list[Fact]:
        stats = self._stats
        if stats.last is None:
            return [("evaluation return", "none yet")]
        frames, found = stats.last[0], summary_of(stats.last[1])
        best = [] if stats.best is None else [("best", f"{format_return(stats.best[1])} at frame {stats.best[0]:,}")]
        return [
            (f"{'final ' * stats.last_is_final}evaluation return", f"{found['mean']} +- {found['std']}"),
            ("range", f"{found['min']} to {found['max']}"),
            *([("success", found["success"])] if "success" in found else []),
            ("at frame", f"{frames:,}"),
            *best,
        ]

    def _curve(self, series: Series, width: int, rows: int, colour: str) -> list[Text]:
        points = series.points()
        rows = min(rows, 1) if self._marks == ASCII else rows
        if not points:
            return []
        values = resample(points, width, self._stats.frames)
        return [_line((line, colour)) for line in sparkline(values, rows, self._marks, self._scale())]


def header(left: str, right: str, width: int, gap: int) -> Text:
    """A line in bold with `left`, cut to leave a gap, and `right` at the end."""
    title = _line((printable(left), "bold"))
    title.truncate(max(1, width - len(right) - gap))
    title.pad_right(max(0, width - title.cell_len - len(right)))
    return title.append(right, "bold")


def _table(facts: Sequence[Fact], width: int, height: int) -> list[Text]:
    """Facts in columns, or on as few lines as possible if the terminal has few rows."""
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
    """Put each fact on the first line that has room for it."""
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
