"""The outcomes of the runs of `rlpipe benchmark solve`: where each was solved, and how its seeds did together."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rlpipe.scripts.benchmarks.measure import Row

SOLVED = 475.0
"""Mean greedy return that counts as solved; Gymnasium's own threshold."""


@dataclass(frozen=True)
class Checked:
    """One evaluation: frames and training seconds (without evaluations) before it, and the mean greedy return."""

    frames: int
    seconds: float
    mean: float


@dataclass(frozen=True)
class Outcome:
    """The outcome of one run: its frames and training seconds in total, and its evaluations in order."""

    seed: int
    frames: int
    seconds: float
    checks: tuple[Checked, ...]

    @property
    def lasting(self) -> Checked | None:
        """The first evaluation from which on all means are at least `SOLVED`; `None` if the last one is below."""
        found = None
        for each in reversed(self.checks):
            if not each.mean >= SOLVED:
                break
            found = each
        return found

    @property
    def touched(self) -> Checked | None:
        """The first evaluation with a mean of at least `SOLVED`; later ones may be below."""
        return next((each for each in self.checks if each.mean >= SOLVED), None)

    @property
    def lowest(self) -> float | None:
        """The lowest mean after the first touch; `None` if there is no such evaluation."""
        touched = self.touched
        return min((each.mean for each in self.checks if touched and each.frames > touched.frames), default=None)

    def __str__(self) -> str:
        if self.touched is None:
            return f"not solved in {self.frames} frames, {self.seconds:.2f} s"
        first = f"first touch at {self.touched.frames} frames, {self.touched.seconds:.2f} s"
        if self.lasting is None:
            return f"not lasting in {self.frames} frames, {self.seconds:.2f} s; {first}, then down to {self.lowest:.0f}"
        return f"lasting from {self.lasting.frames} frames, {self.lasting.seconds:.2f} s; {first}"


def to_rows(algorithm: str, outcomes: Mapping[str, Sequence[Outcome]], frames: int) -> Iterator[Row]:
    """Training seconds until it was solved to the end, until the first touch, and microseconds per frame.

    A run that was not solved counts with all its seconds, which is less than it would have needed: medians are right
    if more than half of the seeds were solved. The first row's `extra` holds the runs in full, and a `summary`.
    """
    extra = {
        "budget": frames,
        "runs": {name: [_as_json(each) for each in runs] for name, runs in outcomes.items()},
        "summary": summarize(outcomes),
    }
    stayed = {name: [(each.lasting or each).seconds for each in runs] for name, runs in outcomes.items()}
    yield Row(f"{algorithm}, lasting", "s of training", stayed, extra)
    touched = {name: [(each.touched or each).seconds for each in runs] for name, runs in outcomes.items()}
    yield Row(f"{algorithm}, first touch", "s of training", touched)
    costs = {name: [1e6 * each.seconds / each.frames for each in runs] for name, runs in outcomes.items()}
    yield Row(f"{algorithm}, training", "us a frame", costs)


def summarize(outcomes: Mapping[str, Sequence[Outcome]]) -> dict[str, dict[str, str]]:
    """Format, for each arm, how many seeds were solved to the end, medians, and the worst seed."""
    return {
        name: {
            "lasted": f"{sum(each.lasting is not None for each in runs)} of {len(runs)}",
            "median": _median([(each.lasting, each) for each in runs]),
            "worst": _worst([(each.lasting, each) for each in runs]),
            "first touch": _median([(each.touched, each) for each in runs]),
            "worst first touch": _worst([(each.touched, each) for each in runs]),
            "lowest after it": _lowest(runs),
        }
        for name, runs in outcomes.items()
        if runs
    }


Reached = tuple["Checked | None", Outcome]
"""The evaluation at which a run was solved, if it was, and the run."""


def _median(reached: Sequence[Reached]) -> str:
    seconds = statistics.median((there or run).seconds for there, run in reached)
    frames = statistics.median((there or run).frames for there, run in reached)
    spelled = _spell(seconds, frames)
    return spelled if 2 * sum(there is None for there, _ in reached) < len(reached) else f"more than {spelled}"


def _worst(reached: Sequence[Reached]) -> str:
    never = [run.seed for there, run in reached if there is None]
    if never:
        return f"not within the budget (seed{'s' * (len(never) > 1)} {', '.join(map(str, never))})"
    there, run = max(reached, key=lambda each: each[0].seconds if each[0] else 0.0)
    assert there is not None
    return f"{_spell(there.seconds, there.frames)} (seed {run.seed})"


def _spell(seconds: float, frames: float) -> str:
    return f"{seconds:.2f} s, {frames:_.0f} frames".replace("_", " ")


def _lowest(runs: Sequence[Outcome]) -> str:
    found = [(each.lowest, each.seed) for each in runs if each.lowest is not None]
    if not found:
        return ""
    lowest, seed = min(found)
    return f"{lowest:.0f} (seed {seed})"


def _as_json(outcome: Outcome) -> dict[str, Any]:
    found = {"lasting": outcome.lasting, "first_touch": outcome.touched}
    return {**asdict(outcome), **{name: check and asdict(check) for name, check in found.items()}}
