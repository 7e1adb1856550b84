"""What training tells of itself while it goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Stage = Literal["starting", "training", "evaluating", "evaluated"]


@dataclass(frozen=True)
class Progress:
    """How far training is, and what is new.

    Args:
        stage: `starting` once, before the first batch; `training` with each line of metrics; `evaluating` before an
            evaluation and `evaluated` after it.
        frames: environment steps so far; a resumed run starts with those it had.
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
"""Any function of one argument. The run ends if it returns `False` (nothing else that is false counts), or raises."""

_LISTENER = "the progress listener"


class StopTraining(Exception):  # noqa: N818 - nothing has gone wrong
    """Raised by a listener to end the run, as if it had returned `False`.

    The run then ends as by a stopping rule: with a checkpoint, the final evaluation and the summary.

    Args:
        reason: what `stopped_by` in the summary says; by default that it was the listener.
    """

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason or _LISTENER)


class Telling:
    """Tells a listener how far training is, and holds back what it raises until a checkpoint has been written.

    A listener that has raised something is told nothing more.

    Args:
        listener: to tell, if there is one.
    """

    def __init__(self, listener: Listener | None) -> None:
        self._listener = listener
        self.raised: BaseException | None = None

    def tell(self, progress: Progress) -> str:
        """Tell it; returns why the run is to end, if the listener wants that, or nothing."""
        if self._listener is None or self.raised is not None:
            return ""
        try:
            answer = self._listener(progress)
        except StopTraining as wish:
            return str(wish)
        except BaseException as error:  # whatever it is, the run is not to lose what it has learned
            self.raised = error
            return ""
        return _LISTENER if isinstance(answer, (bool, np.bool_)) and not answer else ""


@dataclass(frozen=True)
class Evaluation:
    """Raw results of an evaluation.

    Args:
        returns: undiscounted return of each episode.
        lengths: steps of each episode.
        successes: of each episode what the environment said in its last info as `is_success`, 0 or 1, or `None` where
            it said nothing; empty where it never does.
    """

    returns: tuple[float, ...]
    lengths: tuple[int, ...]
    successes: tuple[float | None, ...] = ()

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(np.mean(self.returns))

    @property
    def success_rate(self) -> float | None:
        """Share of successes among the episodes of which the environment tells; `None` where it tells of none."""
        told = [success for success in self.successes if success is not None]
        return sum(told) / len(told) if told else None

    def summary(self) -> dict[str, float]:
        """Number of episodes, and mean, (population) standard deviation, minimum and maximum of their returns.

        Where the environment tells of successes, `success_rate` as well.
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
