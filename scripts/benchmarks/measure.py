"""How benchmarks measure: the arms take turns within one process, and ratios compare adjacent measurements."""

from __future__ import annotations

import contextlib
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

REFERENCE = "rlpipe"
"""The arm that the others are divided by."""


@dataclass(frozen=True)
class Spread:
    """Median and quartiles over repetitions; for a single repetition all three are equal."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """One case of a benchmark.

    Args:
        case: what was measured; case and unit together are unique within a benchmark.
        unit: of the samples, such as `us a vector step`.
        samples: one number per repetition for each arm; lower is better.
        extra: more entries for the JSON file. Three of them are printed too: `frames_per_second` (arm to number) and
            `summary` (arm to column to text) as tables, and `note` as a line below the tables.
    """

    case: str
    unit: str
    samples: dict[str, list[float]]
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def medians(self) -> dict[str, float]:
        """The median of each arm that has samples."""
        return {arm: statistics.median(samples) for arm, samples in self.samples.items() if samples}

    def __str__(self) -> str:
        return f"{self.case}: {', '.join(f'{arm} {median:.4g}' for arm, median in self.medians.items())} {self.unit}"

    def ratio(self, arm: str) -> Spread | None:
        """`arm` divided by rlpipe, paired by repetition; `None` for rlpipe itself, or without rlpipe."""
        pairs = zip(self.samples[arm], self.samples.get(REFERENCE, ()), strict=False)
        ratios = [sample / reference for sample, reference in pairs if reference]
        return spread(ratios) if ratios and arm != REFERENCE else None


def spread(values: list[float]) -> Spread:
    """Median and interpolated quartiles of at least one value."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, method="inclusive")
    return Spread(median, low, high)


def interleave(arms: Mapping[str, Callable[[], object]], *, repeats: int, warmup: int = 1) -> dict[str, list[float]]:
    """Time the arms in turn, A B A B ..., so that other load on the machine affects all of them equally.

    PyTorch uses one thread. Objects from before the first repetition are hidden from the garbage collector, and each
    repetition starts with nothing to collect, so that an arm pays only for its own garbage.

    Returns:
        Seconds of each timed call, by arm, in the order of repetitions; there are `warmup` untimed ones before.
    """
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    with one_thread():
        for _ in range(warmup):
            for call in arms.values():
                call()
        gc.collect()
        gc.freeze()
        try:
            for _ in range(repeats):
                for name, call in arms.items():
                    gc.collect()
                    start = time.perf_counter()
                    call()
                    seconds[name].append(time.perf_counter() - start)
        finally:
            gc.unfreeze()
    return seconds


def repeated(call: Callable[[], object], times: int) -> Callable[[], None]:
    """A function that makes `times` calls."""

    def repeat() -> None:
        for _ in range(times):
            call()

    return repeat


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let PyTorch use one thread within the block."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
