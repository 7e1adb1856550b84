"""How benchmarks measure: arms in turn, within one process, and ratios between what was measured side by side."""

from __future__ import annotations

import contextlib
import gc
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

REFERENCE = "rlpipe"
"""The arm that ratios are taken over."""


class InterruptedMeasurement(KeyboardInterrupt):
    """Ctrl-C during a benchmark; `rows` are the cases that were complete by then."""

    def __init__(self, rows: list[Row]) -> None:
        super().__init__()
        self.rows = rows


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of one number a repetition; of a single repetition all three are the same."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """One case of a benchmark.

    Args:
        case: what was measured; with its unit, unique within a benchmark.
        unit: of the samples, such as `us a vector step`.
        samples: of each arm, one number a repetition; lower is better.
        extra: more about it, for the JSON file. Three entries are shown to people too: `frames_per_second`, arm to
            number, and `summary`, arm to column to text, in tables of their own, and `note`, a line beneath the tables.
    """

    case: str
    unit: str
    samples: dict[str, list[float]]
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def medians(self) -> dict[str, float]:
        """The median of each arm; arms without a sample are left out."""
        return {arm: statistics.median(samples) for arm, samples in self.samples.items() if samples}

    def ratio(self, arm: str) -> Spread | None:
        """How many times what rlpipe takes `arm` takes, paired by repetition; `None` for rlpipe, or without it."""
        pairs = zip(self.samples[arm], self.samples.get(REFERENCE, ()), strict=False)
        ratios = [sample / reference for sample, reference in pairs if reference]
        return spread(ratios) if ratios and arm != REFERENCE else None


def spread(values: list[float]) -> Spread:
    """Median and quartiles of `values`, one or more; quartiles are interpolated, the ends included."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, method="inclusive")
    return Spread(median, low, high)


def interleave(arms: Mapping[str, Callable[[], object]], *, repeats: int, warmup: int = 1) -> dict[str, list[float]]:
    """Time the arms in turn, A B A B ..., so that whatever else the machine does meets all of them alike.

    PyTorch has one thread meanwhile. What exists before the first repetition is kept from the garbage collector, and
    each repetition begins with nothing to collect: an arm pays for its own garbage, and for no other's.

    Args:
        arms: name to what is timed.
        repeats: timed calls of each arm.
        warmup: calls of each arm before, in the same order, that do not count.

    Returns:
        Seconds of each call, by arm, in the order of repetitions.
    """
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    with one_thread():
        for _ in range(warmup):
            for call in arms.values():
                call()
        with _frozen_heap():
            for _ in range(repeats):
                for name, call in arms.items():
                    seconds[name].append(_time(call))
    return seconds


def gather(rows: Iterable[Row], progress: Callable[[str], None]) -> list[Row]:
    """All of `rows`, usually a generator that measures; `progress` gets a line as each is done.

    Raises:
        InterruptedMeasurement: Ctrl-C; holds the rows so far.
    """
    done: list[Row] = []
    try:
        for row in rows:
            done.append(row)
            progress(
                f"{row.case}: {', '.join(f'{arm} {median:.4g}' for arm, median in row.medians.items())} {row.unit}"
            )
    except KeyboardInterrupt:
        raise InterruptedMeasurement(done) from None
    return done


def _time(call: Callable[[], object]) -> float:
    gc.collect()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch has one thread within the block, and as many as before afterwards."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _frozen_heap() -> Iterator[None]:
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
