"""`rlpipe benchmark scale`: how speed and memory grow with environments, and a replay buffer with what it holds."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tensordict import TensorDictBase

from rlpipe.errors import RlpipeError
from rlpipe.losses import NStep
from rlpipe.pipelines.algorithms import dqn
from rlpipe.pipelines.algorithms.recipes import find_recipe
from rlpipe.scripts.benchmarks.collect import Case, measure
from rlpipe.scripts.benchmarks.measure import REFERENCE, Row, gather, one_thread

ENVIRONMENTS = (1, 4, 16, 64, 256, 1024, 4096)
CAPACITIES = (10_000, 100_000, 1_000_000)
SAMPLES = 200
"""Minibatches of which the mean time is one sample of the benchmark."""

MB = 2**20
_PEAK = """
def peak(start=False):
    # of this very program: ru_maxrss would still hold what the parent had when it started it
    if start:
        open("/proc/self/clear_refs", "w").write("5")
    status = open("/proc/self/status").read()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024
"""
_ROLLOUTS = """
import json, sys
import torch
from rlpipe.scripts.benchmarks.collect import Case, lean_rollout
torch.set_num_threads(1)
# what any first rollout allocates is no matter of how many environments there are
lean_rollout(Case("CartPole-v1", 1), int(sys.argv[2]))[0]()
before = peak(start=True)
rollout, close = lean_rollout(Case("CartPole-v1", int(sys.argv[1])), int(sys.argv[2]))
for _ in range(3):
    rollout()
print(json.dumps(peak() - before))
"""
_IMPORT = """
import torchrl.collectors
print(peak())
"""
_TRAIN = """
import contextlib, io, sys
from rlpipe.scripts.main import run
with contextlib.redirect_stdout(io.StringIO()):
    code = run(["train", "ppo", "--total-frames", "4096", "--seed", sys.argv[1], "--quiet", "--run-dir", sys.argv[2]])
print(peak() if code == 0 else "failed")
"""


def run(
    *,
    against: Sequence[str],
    quick: bool,
    seeds: Sequence[int],
    progress: Callable[[str], None],
    environments: Sequence[int] = ENVIRONMENTS,
    capacities: Sequence[int] = CAPACITIES,
) -> list[Row]:
    """Measure collection by numbers of environments, replay buffers by capacity, and the memory of a training run.

    Args:
        against: not read; how a program grows is its own affair, but for the memory of TorchRL's import.
        quick: 1 repetition where a process is started or a buffer filled, instead of 3.
        seeds: the first is that of environments, networks and runs.
        progress: told of each case that is done.
        environments: numbers of CartPole-v1 environments.
        capacities: transitions of the replay buffers.
    """
    repeats = 1 if quick else 3

    def rows() -> Iterator[Row]:
        for number in environments:
            yield measure(
                Case("CartPole-v1", number), [], repeats=3 * repeats, seed=seeds[0], only=(REFERENCE, "floor")
            )
        for number in environments:
            yield rollout_memory(number, repeats=repeats, seed=seeds[0])
        for capacity in capacities:
            yield from replay(capacity, repeats=repeats, seed=seeds[0])
        yield training_memory(repeats=repeats, seed=seeds[0])

    return gather(rows(), progress)


def rollout_memory(num_envs: int, *, repeats: int, seed: int) -> Row:
    """What the peak of resident memory grows by while so many environments are made and three batches collected.

    Each time in a process of its own, which has collected from one environment before.
    """
    samples = [_in_process(_ROLLOUTS, str(num_envs), str(seed)) for _ in range(repeats)]
    case = Case("CartPole-v1", num_envs)
    extra = {"num_envs": num_envs, "steps": case.steps}
    return Row(f"memory of {case}", "MB", {REFERENCE: samples}, extra)


def training_memory(*, repeats: int, seed: int) -> Row:
    """Peak resident memory of `rlpipe train ppo`, and of a Python that imports TorchRL's collectors and ends."""
    samples: dict[str, list[float]] = {REFERENCE: [], "import torchrl.collectors": []}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(repeats):
            samples[REFERENCE].append(_in_process(_TRAIN, str(seed), f"{folder}/{number}"))
            samples["import torchrl.collectors"].append(_in_process(_IMPORT))
    ours, bare = (statistics.median(values) for values in samples.values())
    note = f"`rlpipe train ppo` peaks at {ours / bare:.2f} times the memory of `import torchrl.collectors`"
    return Row("peak memory of rlpipe train ppo", "MB", samples, {"times_import": ours / bare, "note": note})


def replay(capacity: int, *, repeats: int, seed: int) -> Iterator[Row]:
    """A replay buffer of recipe `dqn`, filled batch by batch as training does it, then sampled from."""
    found: dict[tuple[str, str], list[float]] = {}
    for _ in range(repeats):
        for key, value in _fill_and_sample(capacity, seed).items():
            found.setdefault(key, []).append(value)
    for (what, unit), samples in found.items():
        case = f"replay of {capacity:,} transitions: {what}".replace(",", " ")
        yield Row(case, unit, {REFERENCE: samples}, {"capacity": capacity})


def make_replay(capacity: int, seed: int) -> tuple[Any, TensorDictBase]:
    """The buffer that recipe `dqn` would have with this `buffer_size`, and a batch as it stores them, `[frames]`."""
    recipe = find_recipe("dqn").config()
    assert isinstance(recipe, dqn.Config)
    config = dataclasses.replace(recipe, buffer_size=capacity, seed=seed)
    with contextlib.closing(dqn.build(config)) as pipeline:
        batch = NStep(gamma=config.gamma, n=config.n_steps)(next(iter(pipeline.collector)))
        stored = batch.select(*pipeline.state["loss"].in_keys).reshape(-1).clone()
        return pipeline.state["replay"].buffer, stored


def _fill_and_sample(capacity: int, seed: int) -> dict[tuple[str, str], float]:
    """By what it is and its unit: storage, times of filling it, of an `extend` by a batch, of drawing a minibatch.

    Of each `extend` it is this thread's processor time: the longest of thousands would else tell how long the system
    let something else run meanwhile.
    """
    with one_thread():
        buffer, batch = make_replay(capacity, seed)
        buffer.extend(batch)
        buffer.empty()
        extends = []
        began = time.perf_counter()
        for _ in range(-(-capacity // len(batch))):
            start = time.thread_time()
            buffer.extend(batch)
            extends.append(time.thread_time() - start)
        filling = time.perf_counter() - began
        assert len(buffer) == capacity
        buffer.sample()
        start = time.perf_counter()
        for _ in range(SAMPLES):
            buffer.sample()
        sampling = time.perf_counter() - start
    return {
        ("storage", "MB"): _bytes(buffer) / MB,
        ("filling", "us"): 1e6 * filling,
        ("median extend", "us"): 1e6 * statistics.median(extends),
        ("longest extend", "us"): 1e6 * max(extends),
        (f"sample of {len(buffer.sample())}", "us"): 1e6 * sampling / SAMPLES,
    }


def _bytes(buffer: Any) -> int:
    """Of all tensors that a buffer keeps, full."""
    return sum(tensor.numel() * tensor.element_size() for tensor in buffer[:].values(True, True))


def _in_process(code: str, *arguments: str) -> float:
    """Run Python code that prints one number in MB, in a process of its own.

    Raises:
        RlpipeError: it failed, or the system is not Linux, which alone tells the peak of a program.
    """
    if sys.platform != "linux":
        raise RlpipeError("scale measures memory by what Linux says of a process; this system is another")
    command = [sys.executable, "-c", _PEAK + code, *arguments]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return float(json.loads(finished.stdout.splitlines()[-1]))
    except (ValueError, IndexError) as error:
        last = (finished.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise RlpipeError(f"a process that measures memory failed: {last}") from error
