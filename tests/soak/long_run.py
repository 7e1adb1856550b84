"""A long training run, and whether its memory, files, threads and processes stay what they were: Linux only.

`python tests/soak/long_run.py` trains `ppo` on CartPole for ten million frames with 256 environments;
`--frames 500000` is a first look.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median, median_low
from typing import NamedTuple

ENVIRONMENTS = 256
MINIBATCH = 2048
"""In the recipe's ratio to a batch, 1 to 8."""
TOLERANCE = 0.05


class Sample(NamedTuple):
    """What a process has at one moment."""

    seconds: float
    frames: int
    megabytes: float
    files: int
    threads: int
    children: int


def sample(pid: int, started: float, metrics: Path) -> Sample | None:
    """Look at a process; nothing if it has gone."""
    folder = Path("/proc", str(pid))
    try:
        status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
        files = len(os.listdir(folder / "fd"))
        tasks = os.listdir(folder / "task")
        children = sum(len((folder / "task" / task / "children").read_text().split()) for task in tasks)
    except OSError:
        return None
    if "VmRSS" not in status:
        return None
    megabytes = int(status["VmRSS"].split()[0]) / 1024
    return Sample(time.monotonic() - started, frames_in(metrics), megabytes, files, len(tasks), children)


def frames_in(metrics: Path) -> int:
    """Frames of the last whole line of metrics."""
    if not metrics.exists():
        return 0
    with metrics.open("rb") as stream:
        stream.seek(max(0, stream.seek(0, os.SEEK_END) - 200_000))
        starts = [part.split(b",", 1)[0] for part in stream.read().split(b"\n") if part.startswith(b'{"frames": ')]
    whole = [start for start in starts if start.removeprefix(b'{"frames": ').isdigit()]
    return int(whole[-1].removeprefix(b'{"frames": ')) if whole else 0


def judge(samples: list[Sample], frames: int) -> tuple[str, list[str]]:
    """How much there was from the end of the first tenth to the end of training, and what did not stay as it was.

    Memory comes and goes with evaluations, and a file is open while a checkpoint is written: counts are compared by
    their medians over the tenths of the run, and memory both so and each sample with the median of all.
    """
    held = [each for each in samples if frames / 10 <= each.frames < frames]
    tenths = [[each for each in held if tenth <= 10 * each.frames / frames < tenth + 1] for tenth in range(1, 10)]
    if not all(tenths):
        return "", [f"only {len(held)} samples after the first tenth; sample more often, or train for longer"]
    memory = [each.megabytes for each in held]
    middle, early, late = median(memory), *(median(each.megabytes for each in tenths[at]) for at in (0, -1))
    words = (
        f"memory: {early:.1f} MB in the second tenth, {late:.1f} MB in the last ({100 * (late / early - 1):+.1f} %); "
        f"all {len(held)} samples since the first tenth: {min(memory):.1f} to {max(memory):.1f} MB, "
        f"median {middle:.1f} MB ({100 * (min(memory) / middle - 1):+.1f} to {100 * (max(memory) / middle - 1):+.1f} %)"
    )
    faults = []
    if abs(late / early - 1) > TOLERANCE or any(abs(each / middle - 1) > TOLERANCE for each in memory):
        faults.append("memory is not flat")
    for name in ("files", "threads", "children"):
        counts = sorted({int(median_low(getattr(each, name) for each in tenth)) for tenth in tenths})
        words += f"; {name}: {', '.join(map(str, counts))}"
        if len(counts) > 1:
            faults.append(f"the number of {name} changed")
    return words, faults


def main() -> int:
    """Train, sample, and print what was seen; 1 if anything grew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=10_000_000)
    parser.add_argument("--every", type=float, default=2.0, help="seconds from one sample to the next")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "run")
        sizes = ["--num-envs", str(ENVIRONMENTS), "--minibatch-size", str(MINIBATCH)]
        length = ["--total-frames", str(options.frames), "--run-dir", str(folder), "--quiet"]
        started, samples = time.monotonic(), []
        process = subprocess.Popen([sys.executable, "-m", "rlpipe.scripts.main", "train", "ppo", *sizes, *length])
        while process.poll() is None:
            if (seen := sample(process.pid, started, folder / "metrics.jsonl")) is not None:
                samples.append(seen)
            time.sleep(options.every)
        if process.returncode:
            return process.returncode
        shown = samples[:: max(1, len(samples) // 20)]
        print("seconds  frames      MB      files  threads  processes")
        for each in shown:
            print(
                f"{each.seconds:7.0f}  {each.frames:10,}  {each.megabytes:6.1f}  {each.files:5}  {each.threads:7}  "
                f"{each.children:9}"
            )
        words, faults = judge(samples, options.frames)
        print(words)
        print("; ".join(faults) or "nothing grew")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
