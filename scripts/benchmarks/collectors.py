"""`rlpipe benchmark collectors`: the gain and the cost of collectors in other processes."""

from __future__ import annotations

import contextlib
import importlib.util
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from rlpipe.pipelines.algorithms import ppo
from rlpipe.pipelines.algorithms.configs.ppo import Config
from rlpipe.pipelines.collectors.multi import RemoteCollectors
from rlpipe.pipelines.collectors.worker import get_streams, make_payload
from rlpipe.pipelines.pipeline import Pipeline
from rlpipe.scripts.benchmarks.measure import REFERENCE, Row, interleave

ENVIRONMENTS = ("CartPole-v1", "InvertedDoublePendulum-v5")
KINDS: dict[str, dict[str, Any]] = {
    REFERENCE: {},
    "1 process": {"collector": "processes"},
    "2 processes": {"collector": "processes", "num_collectors": 2},
    "1 on Ray": {"collector": "ray"},
    "2 on Ray": {"collector": "ray", "num_collectors": 2},
}
LR = 1e-4
"""Low, so that no policy brings MuJoCo into states that it warns about."""
BATCHES = 4
"""Number of batches in a repetition."""


def run(*, quick: bool, seeds: Sequence[int], **_: Any) -> Iterator[Row]:
    """Measure batches of recipe `ppo`, 64 steps of 16 environments, collected in this and in other processes.

    The arms are rlpipe's own kinds of collectors. Environments of MuJoCo and collectors on Ray are left out if these
    are not installed. With `quick` there are 3 repetitions in place of 15.
    """
    has_ray, has_mujoco = (importlib.util.find_spec(name) is not None for name in ("ray", "mujoco"))
    there = [kind for kind in KINDS if has_ray or not kind.endswith("Ray")]
    for env_id in ENVIRONMENTS:
        if has_mujoco or "Pendulum" not in env_id:
            yield from measure(env_id, there, repeats=3 if quick else 15, seed=seeds[0])


def measure(env_id: str, kinds: Sequence[str], *, repeats: int, seed: int) -> Iterator[Row]:
    """The rows of one environment: collecting, collecting and learning, and the time to start.

    `kinds` are some of `KINDS`, with `REFERENCE`.
    """
    with contextlib.ExitStack() as stack:
        if any(kind.endswith("Ray") for kind in kinds):
            from rlpipe.pipelines.collectors.ray_connection import RayConnection

            # for both arms at once; a collector that waits needs no core
            stack.callback(RayConnection(None, 3).close)
        pipelines: dict[str, Pipeline] = {}
        starts: dict[str, list[float]] = {}
        for kind in kinds:
            config = Config(env_id=env_id, seed=seed, total_frames=1_000_000_000, lr=LR, **KINDS[kind])
            began = time.perf_counter()
            pipelines[kind] = stack.enter_context(contextlib.closing(ppo.build(config)))
            starts[kind] = [time.perf_counter() - began]
        batches = {kind: iter(pipeline.collector) for kind, pipeline in pipelines.items()}
        for each in batches.values():
            # at the end of the interpreter Ray would be stopped already
            stack.callback(each.close)  # type: ignore[attr-defined]
        frames = BATCHES * next(batches[REFERENCE]).numel()

        def collecting(kind: str) -> Callable[[], object]:
            return lambda: [next(batches[kind]) for _ in range(BATCHES)]

        def training(kind: str) -> Callable[[], object]:
            return lambda: [pipelines[kind].learn(next(batches[kind])) for _ in range(BATCHES)]

        for what, of in (("collect", collecting), ("collect and learn", training)):
            seconds = interleave({kind: of(kind) for kind in kinds}, repeats=repeats, warmup=2)
            samples = {kind: [1e6 * each / frames for each in times] for kind, times in seconds.items()}
            row = Row(f"{env_id}: {what}", "us a frame", samples)
            row.extra["frames_per_second"] = {kind: 1e6 / median for kind, median in row.medians.items()}
            yield row
        note = _sent(env_id, pipelines, batches)
        yield Row(f"{env_id}: start", "s", starts, {"note": note} if note else {})


def _sent(env_id: str, pipelines: dict[str, Pipeline], batches: dict[str, Any]) -> str:
    """The number of bytes of tensors sent to each collector and back from all of them."""
    for kind, pipeline in pipelines.items():
        if isinstance(pipeline.collector, RemoteCollectors):
            payload = make_payload(pipeline.policy, pipeline.collector.transforms, get_streams(pipeline.policy))
            arrays = [*payload["policy"].values(), *payload["transforms"].values(), *(payload["streams"] or ())]
            there = sum(array.nbytes for array in arrays if isinstance(array, np.ndarray))
            batch = next(batches[kind])
            sizes = f"{there:,} bytes to each collector, {batch.bytes():,} back"
            return f"{env_id}: a round of {batch.numel()} frames sends {sizes}"
    return ""
