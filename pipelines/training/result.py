"""How far training came."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlpipe.pipelines.checkpoints.state_checks import check_like
from rlpipe.pipelines.progress import Progress, Stage


@dataclass
class Result:
    """How far training came.

    Args:
        frames: environment steps.
        updates: gradient steps.
        episodes: episodes that ended.
        seconds: of collecting and learning; evaluations and checkpoints are not counted.
        stopped_by: why the run ended early, by a stopping rule or the listener; empty if it did not.
        longest_streak: most successes in a row.
    """

    frames: int = 0
    updates: int = 0
    episodes: int = 0
    seconds: float = 0.0
    stopped_by: str = ""
    longest_streak: int = 0

    @property
    def frames_per_second(self) -> float:
        """Frames over training seconds."""
        return self.frames / self.seconds if self.seconds else 0.0

    def progress(self, stage: Stage, **new: Any) -> Progress:
        """The counters, and what is new, for a listener."""
        return Progress(stage, self.frames, self.updates, self.episodes, self.seconds, **new)

    def state_dict(self) -> dict[str, Any]:
        """The counters, for a checkpoint."""
        return dict(vars(self))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`."""
        check_like(vars(Result()), state)
        vars(self).update(state)
