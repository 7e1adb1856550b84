"""`rlpipe benchmark start`: what a person waits for that is no training: imports, options, tables, a short run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlpipe.errors import RlpipeError
from rlpipe.scripts.benchmarks.measure import REFERENCE, Row

RUNS = 100
"""Runs in the table and the report."""
FRAMES = 20_000
"""Of each of these runs, and of the one that is evaluated."""
NAMES = (
    "GAE, MLP, CategoricalActor, ClipPPOLoss, Critic, EnvConfig, Pipeline, RunConfig, SyncDataCollector, "
    "gradient_step, make_env, on_policy"
)
"""What README's program imports."""
_SB3_TRAIN = """
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
# as in rl-zoo3, where the learning rate and the clipping fall
settings = dict(n_steps=32, batch_size=256, gae_lambda=0.8, gamma=0.98, n_epochs=20, learning_rate=1e-3)
model = PPO("MlpPolicy", make_vec_env("CartPole-v1", 8, seed=0), seed=0, device="cpu", **settings).learn(50_000)
"""
_SB3_EVALUATE = """
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
model = PPO.load("sb3.zip", device="cpu")
evaluate_policy(model, make_vec_env("CartPole-v1", 100, seed=0), 100)
"""


@dataclass(frozen=True)
class Case:
    """A command of rlpipe, and Python code with which Stable-Baselines3 does the same if it can.

    Args:
        name: of the row.
        words: after `rlpipe`, or after `python` if they begin with `-c`.
        sb3: the code.
        code: with which rlpipe's process ends.
    """

    name: str
    words: tuple[str, ...]
    sb3: str | None = None
    code: int = 0

    def command(self) -> list[str]:
        """The whole command line."""
        return [sys.executable, *(() if self.words[0] == "-c" else ("-m", "rlpipe")), *self.words]


CASES = (
    Case("a mistyped option", ("train", "ppo", "--lrr", "1"), code=2),
    Case("a refused value", ("train", "ppo", "--gamma", "3"), code=2),
    Case("help of a recipe", ("train", "ppo", "--help")),
    Case(f"table of {RUNS} runs", ("table", "many")),
    Case(f"report of {RUNS} runs", ("report", "many", "--out", "page.html")),
    Case(
        "import, with the names of README's program", ("-c", f"from rlpipe import {NAMES}"), "import stable_baselines3"
    ),
    Case("evaluate, 100 episodes", ("evaluate", "one"), _SB3_EVALUATE),
    Case("train ppo, 50 000 frames", ("train", "ppo", "--quiet", "--run-dir", "trained"), _SB3_TRAIN),
)


def run(*, against: Sequence[str], quick: bool, cases: Sequence[Case] = CASES, **_: Any) -> Iterator[Row]:
    """Measure each command in new processes, in turn with Stable-Baselines3, with one thread of PyTorch each.

    With `quick` there is 1 repetition in place of 3.
    """
    repeats = 1 if quick else 3
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _prepare(folder, sb3="sb3" in against)
        for case in cases:
            yield _measure(case, folder, repeats, sb3="sb3" in against)
        first = [
            _first_output(Case("", ("train", "ppo", "--run-dir", "begun")).command(), folder) for _ in range(repeats)
        ]
        yield Row("train ppo, until the first line on the screen", "s", {REFERENCE: first})


def _measure(case: Case, folder: Path, repeats: int, *, sb3: bool) -> Row:
    arms = {REFERENCE: (case.command(), case.code)}
    if sb3 and case.sb3:
        arms["sb3"] = ([sys.executable, "-c", case.sb3], 0)
    samples: dict[str, list[float]] = {arm: [] for arm in arms}
    for _ in range(repeats):
        for arm, (command, code) in arms.items():
            samples[arm].append(_cpu_seconds(command, folder, code))
            shutil.rmtree(folder / "trained", ignore_errors=True)
            (folder / "page.html").unlink(missing_ok=True)
    return Row(case.name, "s of processor time", samples)


def _prepare(folder: Path, *, sb3: bool) -> None:
    """Write a short run, many that differ from it in the seed, and a model of Stable-Baselines3."""
    train = ["train", "ppo", "--total-frames", str(FRAMES), "--quiet", "--run-dir", "one"]
    _cpu_seconds(Case("", tuple(train)).command(), folder)
    for seed in range(RUNS):
        copy = folder / "many" / str(seed)
        shutil.copytree(folder / "one", copy, ignore=shutil.ignore_patterns("checkpoints"))
        described = json.loads((copy / "config.json").read_text())
        described["config"]["seed"] = seed
        (copy / "config.json").write_text(json.dumps(described))
    if sb3:
        _cpu_seconds(
            [sys.executable, "-c", _SB3_TRAIN.replace("50_000", str(FRAMES)) + 'model.save("sb3.zip")'], folder
        )


def _cpu_seconds(command: Sequence[str], folder: Path, code: int = 0) -> float:
    """Processor time of a process and its children, user and system.

    Raises:
        RlpipeError: it ended with another code.
    """
    before = os.times()
    done = subprocess.run(command, cwd=folder, env=_environment(), capture_output=True, text=True, check=False)
    after = os.times()
    if done.returncode != code:
        last = (done.stderr.strip().splitlines() or ["no error message"])[-1]
        raise RlpipeError(f"{' '.join(command[1:])[:80]} failed: {last}")
    return after.children_user + after.children_system - before.children_user - before.children_system


def _first_output(command: Sequence[str], folder: Path) -> float:
    """Seconds until a process has written to stderr."""
    start = time.perf_counter()
    with subprocess.Popen(
        command, cwd=folder, env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        process.stderr.read(1)
        seconds = time.perf_counter() - start
        process.kill()
    return seconds


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}
