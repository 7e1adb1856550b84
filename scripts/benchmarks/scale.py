"""`rlpipe benchmark scale`: speed and memory by number of environments and by size of the replay buffer."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

from tensordict import TensorDictBase

from rlpipe.arithmetic import ceil_div
from rlpipe.errors import RlpipeError
from rlpipe.losses import NStep
from rlpipe.pipelines.algorithms import dqn
from rlpipe.pipelines.algorithms.configs.dqn import Config
from rlpipe.pipelines.algorithms.recipes import find_recipe
from rlpipe.scripts.benchmarks.collect import Case, measure
from rlpipe.scripts.benchmarks.measure import REFERENCE, Row, one_thread

ENVIRONMENTS = (1, 4, 16, 64, 256, 1024, 4096)
CAPACITIES = (10_000, 100_000, 1_000_000)
SAMPLES = 200
"""Number of minibatches; their mean time is one sample of the benchmark."""

MB = 2**20
_PEAK = """
def peak(start=False):
    # ru_maxrss would include the memory of the parent at the start of this process
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
# the allocations of the first rollout do not depend on the number of environments
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
    quick: bool,
    seeds: Sequence[int],
    environments: Sequence[int] = ENVIRONMENTS,
    capacities: Sequence[int] = CAPACITIES,
    **_: Any,
) -> Iterator[Row]:
    """Measure collection by numbers of environments, replay buffers by capacity, and the memory of a training run.

    The environments are CartPole-v1. Only the memory of TorchRL's import is compared with. With `quick` there is 1
    repetition in place of 3.
    """
    repeats = 1 if quick else 3
    for number in environments:
        yield measure(Case("CartPole-v1", number), [], repeats=3 * repeats, seed=seeds[0], only=(REFERENCE, "floor"))
    for number in environments:
        yield rollout_memory(number, repeats=repeats, seed=seeds[0])
    for capacity in capacities:
        yield from replay(capacity, repeats=repeats, seed=seeds[0])
    yield training_memory(repeats=repeats, seed=seeds[0])


def rollout_memory(num_envs: int, *, repeats: int, seed: int) -> Row:
    """The growth of peak resident memory while environments are made and three batches are collected.

    Each sample is from a new process, which collected from one environment before.
    """
    samples = [_in_process(_ROLLOUTS, str(num_envs), str(seed)) for _ in range(repeats)]
    case = Case("CartPole-v1", num_envs)
    return Row(f"memory of {case}", "MB", {REFERENCE: samples}, {"num_envs": num_envs, "steps": case.steps})


def training_memory(*, repeats: int, seed: int) -> Row:
    """Peak resident memory of `rlpipe train ppo`, and of a process that only imports TorchRL's collectors."""
    samples: dict[str, list[float]] = {REFERENCE: [], "import torchrl.collectors": []}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(repeats):
            samples[REFERENCE].append(_in_process(_TRAIN, str(seed), f"{folder}/{number}"))
            samples["import torchrl.collectors"].append(_in_process(_IMPORT))
    ours, bare = (statistics.median(values) for values in samples.values())
    note = f"`rlpipe train ppo` peaks at {ours / bare:.2f} times the memory of `import torchrl.collectors`"
    return Row("peak memory of rlpipe train ppo", "MB", samples, {"times_import": ours / bare, "note": note})


def replay(capacity: int, *, repeats: int, seed: int) -> Iterator[Row]:
    """Fill a replay buffer of recipe `dqn` batch by batch, as training does, then sample from it."""
    found: dict[tuple[str, str], list[float]] = {}
    for _ in range(repeats):
        for key, value in _fill_and_sample(capacity, seed).items():
            found.setdefault(key, []).append(value)
    for (what, unit), samples in found.items():
        case = f"replay of {capacity:,} transitions: {what}".replace(",", " ")
        yield Row(case, unit, {REFERENCE: samples}, {"capacity": capacity})


def make_replay(capacity: int, seed: int) -> tuple[Any, TensorDictBase]:
    """The buffer of recipe `dqn` with this `buffer_size`, and a batch in the form that it stores, `[frames]`."""
    recipe = find_recipe("dqn").config()
    assert isinstance(recipe, Config)
    config = dataclasses.replace(recipe, buffer_size=capacity, seed=seed)
    with contextlib.closing(dqn.build(config)) as pipeline:
        batch = NStep(gamma=config.gamma, n=config.n_steps)(next(iter(pipeline.collector)))
        stored = batch.select(*pipeline.state["loss"].in_keys).reshape(-1).clone()
        return pipeline.state["replay"].buffer, stored


def _fill_and_sample(capacity: int, seed: int) -> dict[tuple[str, str], float]:
    """Storage and times, by name and unit: filling the buffer, an `extend` by a batch, drawing a minibatch.

    `extend` is measured in processor time of this thread: the longest of thousands of wall times would show how long
    the system ran something else.
    """
    with one_thread():
        buffer, batch = make_replay(capacity, seed)
        buffer.extend(batch)
        buffer.empty()
        extends = []
        began = time.perf_counter()
        for _ in range(ceil_div(capacity, len(batch))):
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
        ("storage", "MB"): buffer[:].bytes() / MB,
        ("filling", "us"): 1e6 * filling,
        ("median extend", "us"): 1e6 * statistics.median(extends),
        ("longest extend", "us"): 1e6 * max(extends),
        (f"sample of {len(buffer.sample())}", "us"): 1e6 * sampling / SAMPLES,
    }


def _in_process(code: str, *arguments: str) -> float:
    """Run Python code that prints a number of MB in a new process, and return the number.

    Raises:
        RlpipeError: the code failed, or the system is not Linux, the only one that reports the peak of a process.
    """
    if sys.platform != "linux":
        raise RlpipeError("scale measures memory through Linux's /proc, which this system does not have")
    command = [sys.executable, "-c", _PEAK + code, *arguments]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return float(json.loads(finished.stdout.splitlines()[-1]))
    except (ValueError, IndexError) as error:
        last = (finished.stderr.strip().splitlines() or ["no error message"])[-1]
        raise RlpipeError(f"a process that measures memory failed: {last}") from error
