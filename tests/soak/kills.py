"""A hundred kills: small runs of every algorithm on every kind of environment, killed at random moments and resumed.

`python tests/soak/kills.py` prints a table, and ends with 1 if a run did not end as the one that was never killed.
Each run is a process of its own, ended by SIGKILL; it is forked, so that it need not import everything again. Linux and
macOS only. Of what is heavy, nothing is imported here, because environments in processes import this file.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import mmap
import os
import random
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

PHASES = ("elsewhere", "collecting", "learning", "evaluating", "writing", "removing", "restoring")
WANTED = ("collecting", "learning", "evaluating", "writing", "learning", "writing", "removing", "restoring")
_ROW = struct.Struct("qd")


class Watch:
    """What a run is doing, in memory that outlives it."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 8 + _ROW.size * len(PHASES))
        self.announce: tuple[int, int, int] | None = None

    @property
    def now(self) -> str:
        """The phase that the run is in."""
        return PHASES[self._memory[0]]

    def row(self, phase: int) -> tuple[int, float]:
        """How often the phase was entered, and the seconds spent in it."""
        return _ROW.unpack_from(self._memory, 8 + _ROW.size * phase)

    def marked(self, phase: int, call: Any) -> Any:
        """`call`, which is a phase."""

        def run(*arguments: Any, **options: Any) -> Any:
            before, started, (count, seconds) = self._memory[0], time.monotonic(), self.row(phase)
            self._memory[0] = phase
            if self.announce is not None and self.announce[:2] == (phase, count + 1):
                os.write(self.announce[2], b"!")
            try:
                return call(*arguments, **options)
            finally:
                self._memory[0] = before
                _ROW.pack_into(self._memory, 8 + _ROW.size * phase, count + 1, seconds + time.monotonic() - started)

        return run


def run_in(watch: Watch, folder: Path, algorithm: str, config: Any) -> None:
    """Train, or go on, in this process, and take note of its phases."""
    import resuming

    from rlpipe.pipelines.runs import run

    def during(pipeline: Any) -> None:
        pipeline.learn = watch.marked(2, pipeline.learn)
        pipeline.collector._rollout = watch.marked(1, pipeline.collector._rollout)

    with contextlib.ExitStack() as stack:
        for phase, owner, name in (
            (3, resuming, "evaluate"),
            (4, run, "save_checkpoint"),
            (5, run.Run, "_remove_old"),
            (6, run.Run, "restore"),
        ):
            stack.enter_context(patch.object(owner, name, watch.marked(phase, getattr(owner, name))))
        resuming.go(folder, algorithm, config, during=during)


def fork(watch: Watch, *what: Any) -> int:
    """`run_in`, in a process of its own, whose last words go into a file beside the run."""
    process = os.fork()
    if process == 0:
        words = os.open(what[0].with_name("stderr"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(words, 1)
        os.dup2(words, 2)
        try:
            run_in(watch, *what)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return process


def finish(*what: Any) -> tuple[bool, Watch]:
    """Let it run to its end; whether it came there, and its phases."""
    watch = Watch()
    process = fork(watch, *what)
    return os.waitpid(process, 0)[1] == 0, watch


def kill_in(phase: int, number: int, delay: float, *what: Any) -> str | None:
    """Kill it some seconds after it entered a phase for the `number`th time; the phase it was in, if it was killed."""
    watch = Watch()
    heard, told = os.pipe()
    watch.announce = (phase, number, told)
    process = fork(watch, *what)
    os.close(told)
    entered = os.read(heard, 1)
    os.close(heard)
    if entered:
        time.sleep(delay)
        os.kill(process, signal.SIGKILL)
    status = os.waitpid(process, 0)[1]
    if os.WIFSIGNALED(status):
        return watch.now
    if status:
        raise RuntimeError(what[0].with_name("stderr").read_text())
    return None


def one_case(folder: Path, algorithm: str, config: Any, phases: list[int], dice: random.Random) -> tuple[bool, Counter]:
    """Kill a run once in each phase, let it end, and compare it with one that was never killed."""
    from comparing import fingerprint

    from rlpipe.pipelines.checkpoints.names import frames_of, newest_checkpoint

    reference, run = folder / "never", folder / "killed"
    ended, watch = finish(reference, algorithm, config)
    if not ended:
        raise RuntimeError(reference.with_name("stderr").read_text())
    fell: Counter = Counter()
    for phase in sorted(phases, key=lambda each: PHASES[each] == "restoring"):
        while True:
            newest = newest_checkpoint(run) if run.exists() else None
            left = 1 - (0 if newest is None else frames_of(newest) / config.total_frames)
            count, seconds = watch.row(phase)
            number = dice.randint(1, max(1, int(left * count)))
            delay = dice.uniform(0, seconds / count) if count else dice.uniform(0, 0.02)
            where = kill_in(phase, number if count else 1, delay, run, algorithm, config)
            if where is not None:
                fell[where] += 1
                break
            # it came to its end first; so there is nothing to kill but a run from the start
            run = run.with_name(f"{run.name}-again")
    if not finish(run, algorithm, config)[0]:
        raise RuntimeError(run.with_name("stderr").read_text())
    return fingerprint(run) == fingerprint(reference), fell


def plan(kills: int) -> Iterator[tuple[str, str, list[int]]]:
    """Algorithms, kinds of environment, and the phases to be killed in."""
    from resuming import ALGORITHMS, KINDS, fits

    cases = [(algorithm, kind) for algorithm in ALGORITHMS for kind in KINDS if fits(algorithm, kind)]
    wanted = itertools.cycle(WANTED)
    for index, (algorithm, kind) in enumerate(cases):
        share = kills // len(cases) + (index < kills % len(cases))
        if share:
            yield algorithm, kind, [PHASES.index(next(wanted)) for _ in range(share)]


def main() -> int:
    """Run all cases; 1 if any of them ended otherwise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))
    import pytest
    import torch
    from resuming import KINDS, make_config

    # everything is imported before the first fork
    from rlpipe.pipelines.algorithms import a2c, dqn, policy_gradient, ppo, q_learning, reinforce, sarsa  # noqa: F401
    from rlpipe.pipelines.runs.loggers import tensorboard as board  # noqa: F401

    torch.set_num_threads(1)
    dice, different, total, all_fell = random.Random(options.seed), 0, 0, Counter()
    print("| algorithm | environment | kept | kills | they fell into | result | seconds |")
    print("|---|---|---|---|---|---|---|")
    for algorithm, kind, phases in plan(options.kills):
        started = time.monotonic()
        try:
            config = make_config(algorithm, kind)
        except pytest.skip.Exception as missing:
            print(f"| {algorithm} | {kind} | | 0 | | {missing} | |")
            continue
        with tempfile.TemporaryDirectory() as folder:
            equal, fell = one_case(Path(folder), algorithm, config, phases, dice)
        words = ", ".join(f"{name} {number}" if number > 1 else name for name, number in fell.items())
        different, total, all_fell = different + (not equal), total + fell.total(), all_fell + fell
        result = "equal" if equal else "DIFFERENT"
        seconds = time.monotonic() - started
        print(f"| {algorithm} | {kind} | {KINDS[kind].keeps} | {fell.total()} | {words} | {result} | {seconds:.1f} |")
        sys.stdout.flush()
    print(
        f"\n{total} kills ({', '.join(f'{n} {name}' for name, n in all_fell.most_common())}), {different} differences"
    )
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
