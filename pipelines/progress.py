"""What training tells of itself while it goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from rlpipe.pipelines.evaluation import Evaluation

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


Listener = Callable[[Progress], None]
"""Any function of one argument; what it raises ends the run."""
