"""What training reports while it runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from rlpipe.formatting import statistics

Stage = Literal["starting", "training", "evaluating", "evaluated"]


@dataclass(frozen=True)
class Progress:
    """How far training is, and what is new.

    Args:
        stage: `starting` once, before the first batch; `training` with each line of metrics; `evaluating` before an
            evaluation and `evaluated` after it.
        frames: environment steps so far, those before a resume included.
        updates: gradient steps so far.
        episodes: episodes that have ended so far.
        seconds: of collecting and learning so far.
        scalars: with `training`, the line's losses and diagnostics, means over its batches.
        returns: with `training`, undiscounted returns of the episodes that ended, in their order.
        lengths: and their steps.
        evaluation: with `evaluated`, its result.
        final: whether the evaluation is the one after training.
    """

    stage: Stage
    frames: int
    updates: int = 0
    episodes: int = 0
    seconds: float = 0.0
    scalars: Mapping[str, float] = field(default_factory=dict)
    returns: Sequence[float] = ()
    lengths: Sequence[int] = ()
    evaluation: Evaluation | None = None
    final: bool = False


Listener = Callable[[Progress], object]
"""Any function of one argument. The run ends if it returns `False` (and not `None` or 0), or raises."""

_LISTENER = "the progress listener"


class StopTraining(Exception):  # noqa: N818 - it is no error
    """Raised by a listener to end the run, as if it had returned `False`.

    The run then ends as with a stopping rule: with a checkpoint, the final evaluation and the summary.

    Args:
        reason: for `stopped_by` in the summary; by default the listener's name.
    """

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)


class Reporter:
    """Calls a listener, and keeps what it raises until a checkpoint has been written.

    A listener that raised something is not called again.
    """

    def __init__(self, listener: Callable[[Any], object] | None, name: str = _LISTENER) -> None:
        self._listener, self._name = listener, name
        self.raised: BaseException | None = None

    def report(self, news: Any) -> str:
        """Call the listener; returns why the run is to end if the listener asks for that, else nothing."""
        if self._listener is None or self.raised is not None:
            return ""
        try:
            answer = self._listener(news)
        except StopTraining as stop:
            return str(stop) or self._name
        except BaseException as error:  # the run writes a checkpoint first, whatever it is
            self.raised = error
            return ""
        return self._name if isinstance(answer, (bool, np.bool_)) and not answer else ""


@dataclass(frozen=True, repr=False)
class Evaluation:
    """Raw results of an evaluation.

    Args:
        returns: undiscounted return of each episode.
        lengths: steps of each episode.
        successes: `is_success` in the last info of each episode, 0 or 1, or `None` if it is missing there; empty if no
            episode has it.
    """

    returns: tuple[float, ...]
    lengths: tuple[int, ...]
    successes: tuple[float | None, ...] = ()

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Evaluation:
        """Read a line of `evaluations.jsonl`; one that is damaged raises a `ValueError` or the like."""
        known = [None if each is None else float(each) for each in row.get("successes") or ()]
        if not all(each is None or math.isfinite(each) for each in known):
            raise ValueError("a success is NaN or infinite")
        return cls(tuple(map(float, row["returns"])), tuple(map(int, row["lengths"])), tuple(known))

    def __repr__(self) -> str:
        if not self.returns:
            return "<Evaluation of no episodes>"
        found = statistics(self.summary())
        return (
            f"<Evaluation: return {found['mean']} +- {found['std']} over {len(self.returns)} episodes "
            f"({found['min']} to {found['max']})>"
        )

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(np.mean(self.returns))

    @property
    def success_rate(self) -> float | None:
        """The share of successes among the episodes whose environment reports them; `None` if there are none."""
        known = [success for success in self.successes if success is not None]
        return sum(known) / len(known) if known else None

    def summary(self) -> dict[str, float]:
        """Number of episodes, and mean, (population) standard deviation, minimum and maximum of their returns.

        If the environment reports successes, `success_rate` as well.
        """
        values = np.asarray(self.returns)
        rate = self.success_rate
        return {
            "episodes": len(self.returns),
            "mean": self.mean,
            "std": float(values.std()),
            "min": float(values.min()),
            "max": float(values.max()),
            **({} if rate is None else {"success_rate": rate}),
        }
