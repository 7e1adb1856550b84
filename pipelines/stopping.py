"""When a run ends before it has all its frames."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlpipe.formatting import figure

_ENDLESS = -1


@dataclass
class StoppingRule:
    """Ends a run by its batches and evaluations; the first condition that is met becomes its `reason`.

    Args:
        total_episodes: this many training episodes ended.
        at_return: the evaluation return, a mean over episodes, reached this.
        at_mean: the mean training return of the last `window` episodes reached this.
        window: number of episodes for `at_mean`; with fewer there is no mean.
        successes: this many training episodes in a row had a return of at least `success_return`.
        success_return: the least return of a success.
        at_change: learning changed its result by less than this: `change` among a batch's scalars, if it is there.
    """

    total_episodes: int | None = None
    at_return: float | None = None
    at_mean: float | None = None
    window: int = 100
    successes: int | None = None
    success_return: float = 0.0
    at_change: float | None = None
    reason: str = field(default="", init=False)
    episodes: int = field(default=0, init=False)
    streak: int = field(default=0, init=False)
    longest_streak: int = field(default=0, init=False)
    until: int | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=self.window)

    def after_batch(self, returns: Sequence[float], scalars: Mapping[str, float]) -> None:
        """Check the returns of the episodes that ended in a batch, in their order, and the batch's scalars."""
        for value in returns:
            self.episodes += 1
            self._recent.append(value)
            self.streak = self.streak + 1 if value >= self.success_return else 0
            self.longest_streak = max(self.longest_streak, self.streak)
            if self.total_episodes is not None and self.episodes >= self.total_episodes:
                self._stop(f"{self.episodes} episodes")
            if self.successes is not None and self.streak >= self.successes:
                self._stop(f"{self.streak} successes in a row")
            mean = sum(self._recent) / len(self._recent)
            if self.at_mean is not None and len(self._recent) == self.window and mean >= self.at_mean:
                self._stop(f"a mean training return of {figure(mean)} over {self.window} episodes")
        if self.at_change is not None and scalars.get("change", self.at_change) < self.at_change:
            self._stop(f"a change of {scalars['change']:.1e}")

    def after_evaluation(self, mean: float) -> None:
        """Check an evaluation return, a mean over episodes."""
        if self.at_return is not None and mean >= self.at_return:
            self._stop(f"an evaluation return of {figure(mean)}")

    def end(self, reason: str, total_frames: float) -> None:
        """End a run by choice; if it is resumed with more than these `total_frames`, it continues."""
        if not self.reason:
            self.reason, self.until = reason, _ENDLESS if total_frames == math.inf else int(total_frames)

    def resume(self, total_frames: float) -> None:
        """Continue a run that was ended by choice, if it has more frames now."""
        if self.until is not None and _ENDLESS != self.until < total_frames:
            self.reason, self.until = "", None

    def _stop(self, reason: str) -> None:
        self.reason = self.reason or reason

    def state_dict(self) -> dict[str, Any]:
        """The counters, for a checkpoint."""
        counted = {"episodes": self.episodes, "streak": self.streak, "longest_streak": self.longest_streak}
        return {**counted, "reason": self.reason, "until": self.until, "recent": list(self._recent)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`."""
        # a checkpoint of an older version has no such entry
        from rlpipe.pipelines.checkpoints.state_checks import check_like, check_numbers  # noqa: PLC0415 - heavy

        state = {"until": None, **state}
        check_like(StoppingRule().state_dict(), state)
        if type(state["until"]) not in (int, type(None)):
            raise ValueError(f"until is {state['until']!r}, expected a whole number or None")
        check_numbers(state["recent"], "recent")
        kept = dict(state)
        self._recent = deque(kept.pop("recent"), maxlen=self.window)
        vars(self).update(kept)
