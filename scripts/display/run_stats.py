"""What is known of a run while it trains, and how it is put into words."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rlpipe.formatting import figure, statistics
from rlpipe.scripts.display.sparkline import Series

if TYPE_CHECKING:
    from rlpipe.pipelines.progress import Evaluation, Progress

_SHOWN_ELSEWHERE = {"seconds", "frames_per_second", "updates"}
_SPEED_WINDOW = 10.0


class Speed:
    """Frames a second of training, over about the last ten seconds of it.

    The first line is left out as soon as there are others: it holds what happens once.
    """

    def __init__(self) -> None:
        self._moments: deque[tuple[int, float]] = deque()
        self._lines = 0

    def add(self, frames: int, seconds: float) -> None:
        """Take note of frames so far after so many training seconds so far."""
        self._moments.append((frames, seconds))
        self._lines += 1
        if self._lines == 3:
            self._moments.popleft()
        while len(self._moments) > 2 and seconds - self._moments[1][1] >= _SPEED_WINDOW:
            self._moments.popleft()

    @property
    def now(self) -> float | None:
        """Frames a second, or nothing as long as it cannot be told."""
        if len(self._moments) < 2:
            return None
        (begun, since), (frames, seconds) = self._moments[0], self._moments[-1]
        return (frames - begun) / (seconds - since) if seconds > since and frames > begun else None


@dataclass
class Facts:
    """All that the view shows of a run.

    Args:
        title: recipe, environment and seed.
        folder: of the run.
        total_frames: at which it ends, unless something else ends it before.
        window: episodes in the mean return.
        began: on the clock of `add`.
        past: gives what a resumed run had told before its first so many frames were over.
    """

    title: str
    folder: Path
    total_frames: int
    window: int
    began: float
    past: Callable[[Path, int], Iterable[Progress]]
    now: Progress | None = None
    since: float = 0.0
    ended: str = ""
    scalars: dict[str, float] = field(default_factory=dict)
    returns: Series = field(default_factory=Series)
    evaluations: Series = field(default_factory=Series)
    speed: Speed = field(default_factory=Speed)
    last: tuple[int, Evaluation] | None = None
    last_is_final: bool = False
    best: tuple[int, float] | None = None

    def __post_init__(self) -> None:
        self._recent: deque[tuple[float, int]] = deque(maxlen=self.window)

    def add(self, progress: Progress, at: float) -> None:
        """Take note of what training told at a moment."""
        if progress.stage == "starting" and progress.frames:
            for each in self.past(self.folder, progress.frames):
                self._add_new(each)
        if progress.stage in ("starting", "training"):
            self.speed.add(progress.frames, progress.seconds)
        self._add_new(progress)
        self.now, self.since = progress, at

    def _add_new(self, progress: Progress) -> None:
        self._recent.extend(zip(progress.returns, progress.lengths, strict=True))
        if progress.stage == "training":
            shown = {key: value for key, value in progress.scalars.items() if key not in _SHOWN_ELSEWHERE}
            # a scalar that this line lacks is still the latest
            self.scalars.update(shown)
            if self._recent:
                self.returns.add(progress.frames, self.mean_return)
        if progress.evaluation is not None:
            self.last, self.last_is_final = (progress.frames, progress.evaluation), progress.final
            mean = progress.evaluation.mean
            # the final one has other episodes, and more of them
            if not progress.final:
                self.evaluations.add(progress.frames, mean)
            if not progress.final and (self.best is None or not mean <= self.best[1]):
                self.best = progress.frames, mean

    @property
    def recent_episodes(self) -> int:
        """Episodes that the mean return is of."""
        return len(self._recent)

    @property
    def mean_return(self) -> float:
        """Of the latest episodes."""
        return sum(value for value, _ in self._recent) / len(self._recent)

    @property
    def mean_length(self) -> float:
        """Of the same, steps."""
        return sum(length for _, length in self._recent) / len(self._recent)

    @property
    def left(self) -> float | None:
        """Seconds of training that are left, or nothing as long as it cannot be told."""
        speed = self.speed.now
        if self.now is None or speed is None:
            return None
        return max(0, self.total_frames - self.now.frames) / speed


def number(value: float) -> str:
    """A return for people."""
    return figure(value, ",")


def clock(seconds: float | None) -> str:
    """Minutes and seconds, and hours if there are any."""
    if seconds is None or not math.isfinite(seconds):
        return "-:--"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def summary_of(evaluation: Evaluation) -> dict[str, str]:
    """Mean, deviation and range of the returns, for people."""
    import numpy as np

    # of infinite returns there is no deviation
    with np.errstate(invalid="ignore", over="ignore"):
        return statistics(evaluation.summary(), ",")


def describe_evaluation(frames: int, evaluation: Evaluation) -> str:
    """Mean, deviation, range and frame of an evaluation."""
    found = summary_of(evaluation)
    return f"{found['mean']} +- {found['std']} ({found['min']} to {found['max']}) at frame {frames:,}"
