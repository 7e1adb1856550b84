"""Statistics of a run while it trains, and how they are written."""

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

_SHOWN_SEPARATELY = {"seconds", "frames_per_second", "updates"}
_SPEED_WINDOW = 10.0


class Speed:
    """Frames per second of training, over about the last ten seconds.

    The first line of metrics is ignored as soon as there are others: it includes the start of training.
    """

    def __init__(self) -> None:
        self._moments: deque[tuple[int, float]] = deque()
        self._lines = 0

    def add(self, frames: int, seconds: float) -> None:
        """Add the number of frames after this many training seconds."""
        self._moments.append((frames, seconds))
        self._lines += 1
        if self._lines == 3:
            self._moments.popleft()
        while len(self._moments) > 2 and seconds - self._moments[1][1] >= _SPEED_WINDOW:
            self._moments.popleft()

    @property
    def now(self) -> float | None:
        """Frames per second; `None` while it is not known yet."""
        if len(self._moments) < 2:
            return None
        (begun, since), (frames, seconds) = self._moments[0], self._moments[-1]
        return (frames - begun) / (seconds - since) if seconds > since and frames > begun else None


@dataclass
class RunStats:
    """Everything that is shown of a run.

    `window` is the number of episodes in the mean return, `began` the start time on the clock of `add`; `past` reads
    the progress of a resumed run from its folder, up to a frame.
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
        """Add a report of the training loop, received at time `at`."""
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
            # a scalar missing from this report keeps its last value
            self.scalars |= {key: value for key, value in progress.scalars.items() if key not in _SHOWN_SEPARATELY}
            if self._recent:
                self.returns.add(progress.frames, self.mean_return)
        if progress.evaluation is not None:
            self.last, self.last_is_final = (progress.frames, progress.evaluation), progress.final
            # the final evaluation has other, and more, episodes
            if not progress.final:
                mean = progress.evaluation.mean
                self.evaluations.add(progress.frames, mean)
                if self.best is None or not mean <= self.best[1]:
                    self.best = progress.frames, mean

    @property
    def stage(self) -> str:
        """What the run is doing, while it has not ended."""
        if self.now is None or self.now.stage == "starting":
            return "starting"
        if self.now.stage == "evaluating":
            return "final evaluation" if self.now.final else "evaluating"
        return "training"

    @property
    def frames(self) -> int:
        """Number of frames so far."""
        return self.now.frames if self.now else 0

    @property
    def recent_episodes(self) -> int:
        """Number of episodes in the mean return."""
        return len(self._recent)

    @property
    def mean_return(self) -> float:
        """Mean return of the latest episodes."""
        return sum(value for value, _ in self._recent) / len(self._recent)

    @property
    def mean_length(self) -> float:
        """Mean number of steps of the latest episodes."""
        return sum(length for _, length in self._recent) / len(self._recent)

    @property
    def left(self) -> float | None:
        """Seconds of training left; `None` while the speed is not known yet."""
        speed = self.speed.now
        if self.now is None or speed is None:
            return None
        return max(0, self.total_frames - self.now.frames) / speed


def format_return(value: float) -> str:
    """Format a return."""
    return figure(value, ",")


def clock(seconds: float | None) -> str:
    """Format seconds as `minutes:seconds`, or `hours:minutes:seconds`."""
    if seconds is None or not math.isfinite(seconds):
        return "-:--"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def summary_of(evaluation: Evaluation) -> dict[str, str]:
    """Format the mean, standard deviation and range of the returns; and `success`, if there is a success rate."""
    import numpy as np

    # infinite returns have no standard deviation
    with np.errstate(invalid="ignore", over="ignore"):
        texts = statistics(evaluation.summary(), ",")
    rate = evaluation.success_rate
    return texts if rate is None else {**texts, "success": f"{rate:.1%}"}
