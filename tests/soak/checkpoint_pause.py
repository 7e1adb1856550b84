"""How long training waits for a checkpoint, how large it is, and how long a run takes to come back to it.

`python tests/soak/checkpoint_pause.py` prints the medians of five.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from rlpipe.pipelines.algorithms import dqn, ppo
from rlpipe.pipelines.algorithms.recipes import builder
from rlpipe.pipelines.runs.run import BuiltFrom, Run

TRANSITIONS = 1_000_000
TIMES = 5


def measure(algorithm: str, config: Any) -> tuple[list[float], list[float], int]:
    """Seconds of each checkpoint and of each restoring, and the bytes of the last checkpoint."""
    written, restored = [], []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "run")
        with contextlib.closing(builder(algorithm)(config)) as pipeline:
            for batch in pipeline.collector:
                pipeline.learn(batch)
            with contextlib.closing(Run(folder, "", built_from=BuiltFrom(algorithm, config))) as run:
                for frames in range(TIMES):
                    started = time.perf_counter()
                    path = run.checkpoint(frames, pipeline.state)
                    written.append(time.perf_counter() - started)
        size = sum(file.stat().st_size for file in path.iterdir())
        for _ in range(TIMES):
            with (
                contextlib.closing(builder(algorithm)(config)) as pipeline,
                contextlib.closing(Run(folder, "", built_from=BuiltFrom(algorithm, config), resume=True)) as run,
            ):
                started = time.perf_counter()
                run.restore(pipeline.state)
                restored.append(time.perf_counter() - started)
    return written, restored, size


def main() -> None:
    """Print a table."""
    torch.set_num_threads(1)
    # no updates: only the buffer matters
    replay = {"buffer_size": TRANSITIONS, "warmup_frames": TRANSITIONS, "total_frames": TRANSITIONS, "updates": 1}
    cases = {
        f"dqn, {TRANSITIONS:,} transitions of CartPole": ("dqn", dqn.Config(**replay, num_envs=1000, rollout_steps=50)),
        "ppo on CartPole": ("ppo", ppo.Config(total_frames=5_000)),
    }
    print("| | pause | shortest to longest | size | to come back |")
    print("|---|---|---|---|---|")
    for name, (algorithm, config) in cases.items():
        written, restored, size = measure(algorithm, config)
        print(
            f"| {name} | {median(written):.3f} s | {min(written):.3f} to {max(written):.3f} s | {size / 1e6:.2f} MB "
            f"| {median(restored):.3f} s |"
        )


if __name__ == "__main__":
    main()
