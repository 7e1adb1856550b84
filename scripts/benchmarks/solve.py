"""`rlpipe benchmark solve`: frames and training seconds until CartPole-v1 is solved and stays solved."""

from __future__ import annotations

import contextlib
import functools
import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tensordict.nn import TensorDictModuleBase

from rlpipe.pipelines.algorithms.recipes import builder, find_recipe
from rlpipe.pipelines.collectors.evaluation import evaluate
from rlpipe.pipelines.envs import EnvConfig
from rlpipe.pipelines.pipeline import Pipeline
from rlpipe.scripts.baselines.sb3 import ZOO, build_sb3
from rlpipe.scripts.baselines.torchrl_loop import build_stock
from rlpipe.scripts.baselines.torchrl_parts import StockKind
from rlpipe.scripts.baselines.torchrl_trainer import build_trainer, stop_when
from rlpipe.scripts.benchmarks.measure import REFERENCE, Row, one_thread
from rlpipe.scripts.benchmarks.outcomes import Checked, Outcome, to_rows

BUDGETS = {"ppo": 50_000, "dqn": 50_000, "a2c": 100_000, "reinforce": 100_000}
"""Number of frames that every arm of an algorithm trains for; later evaluations do not count."""
ENV_ID = "CartPole-v1"
EVAL_EVERY, EVAL_EPISODES, EVAL_SEED = 2_500, 20, 0
_WARM_FRAMES = 1_500


class Race:
    """The evaluations of one run by `judge`, every so many frames; its clock stops while they are made."""

    def __init__(self, judge: Callable[[TensorDictModuleBase], float], *, frames: int, every: int = EVAL_EVERY) -> None:
        self.judge, self.budget, self.every = judge, frames, every
        self.frames, self.seconds = 0, 0.0
        self.checks: list[Checked] = []
        self._resumed = time.perf_counter()

    def start(self) -> None:
        """Start the clock, when everything is built and training starts."""
        self._resumed = time.perf_counter()

    def __call__(self, policy: TensorDictModuleBase, frames: int) -> bool:
        """Evaluate if `frames` passed a multiple of `every`; returns whether the budget is used up."""
        before, self.frames = self.frames, frames
        if frames // self.every > before // self.every:
            self.stop()
            self.checks.append(Checked(frames, self.seconds, self.judge(policy)))
            self.start()
        return frames >= self.budget

    def stop(self) -> None:
        """Stop the clock."""
        self.seconds += time.perf_counter() - self._resumed

    def outcome(self, seed: int) -> Outcome:
        """The outcome of the run, which had this seed."""
        return Outcome(seed, self.frames, self.seconds, tuple(self.checks))


Runner = Callable[[str, int, Race], None]
"""Trains an algorithm with a seed until the `Race` says that the budget is used up."""


def run(
    *,
    against: Sequence[str],
    quick: bool,
    seeds: Sequence[int],
    progress: Callable[[str], None],
    algorithms: Sequence[str] = tuple(BUDGETS),
    frames: int | None = None,
) -> Iterator[Row]:
    """Measure training until CartPole-v1 is solved and stays solved, and until the threshold is first touched.

    A run is solved from the first greedy evaluation with a mean return of `SOLVED` or more after which no later one
    within the budget is lower, so every run trains for its whole budget. All evaluations are made by rlpipe, with
    `EVAL_EPISODES` episodes from the same resets. rlpipe and TorchRL use the recipe's settings and schedules,
    Stable-Baselines3 those of rl-zoo3. Construction is not timed. Every arm runs once with each seed, seed by seed;
    `progress` gets a line after each run. With `quick`, only PPO is trained, with one seed and half the frames and
    without the trainer class. `frames` is the budget of all runs, in place of `BUDGETS`.

    Raises:
        ConfigError: `sb3` is in `against` and not installed.
    """
    if quick:
        algorithms, seeds, frames = algorithms[:1], seeds[:1], frames or BUDGETS[algorithms[0]] // 2
        against = [name for name in against if name != "torchrl trainer"]
    with one_thread():
        for algorithm in algorithms:
            budget = frames or BUDGETS[algorithm]
            outcomes = race(algorithm, make_runners(algorithm, against), seeds, budget, progress)
            yield from to_rows(algorithm, outcomes, budget)


def make_runners(algorithm: str, against: Sequence[str]) -> dict[str, Runner]:
    """The arms of an algorithm by name, rlpipe first."""
    runners: dict[str, Runner] = {
        "torchrl": run_stock,
        "torchrl trainer": run_trainer,
        "torchrl same step": functools.partial(run_stock, kind="same step"),
        "torchrl serial": functools.partial(run_stock, kind="serial"),
        "torchrl parallel": functools.partial(run_stock, kind="parallel"),
    }
    if algorithm in ZOO:
        runners["sb3"] = run_sb3
    return {REFERENCE: run_ours, **{name: runner for name, runner in runners.items() if name in against}}


def race(
    algorithm: str,
    runners: Mapping[str, Runner],
    seeds: Sequence[int],
    frames: int,
    progress: Callable[[str], None],
) -> dict[str, list[Outcome]]:
    """Run every arm on the first seed, then on the second, and so on, after a short untimed run of each."""
    for runner in runners.values():
        with one_thread():
            runner(algorithm, seeds[0], Race(lambda _: 0.0, frames=_WARM_FRAMES))
    outcomes: dict[str, list[Outcome]] = {name: [] for name in runners}
    for seed in seeds:
        for name, runner in runners.items():
            # an arm must not pay for the garbage of others
            gc.collect()
            clock = Race(greedy_mean, frames=frames)
            # set for each run: TorchRL's environments raise the number of threads when they are closed
            with one_thread():
                runner(algorithm, seed, clock)
            outcomes[name].append(clock.outcome(seed))
            progress(f"{algorithm}, seed {seed}, {name}: {outcomes[name][-1]}")
    return outcomes


def greedy_mean(policy: TensorDictModuleBase) -> float:
    """The mean return of a greedy evaluation."""
    return evaluate(policy, EnvConfig(ENV_ID), episodes=EVAL_EPISODES, seed=EVAL_SEED).mean


def run_ours(algorithm: str, seed: int, clock: Race) -> None:
    """Train the recipe with rlpipe."""
    drive(builder(algorithm)(recipe_config(algorithm, seed)), clock)


def run_stock(algorithm: str, seed: int, clock: Race, kind: StockKind | None = None) -> None:
    """Train the recipe with TorchRL's own parts."""
    drive(build_stock(algorithm, recipe_config(algorithm, seed), kind), clock)


def run_trainer(algorithm: str, seed: int, clock: Race) -> None:
    """Train the recipe with TorchRL's trainer class."""
    trainer, policy = build_trainer(algorithm, recipe_config(algorithm, seed))
    stop_when(trainer, policy, clock)
    clock.start()
    trainer.train()
    clock.stop()


def run_sb3(algorithm: str, seed: int, clock: Race) -> None:
    """Train with Stable-Baselines3 and the settings of rl-zoo3."""
    train, close = build_sb3(algorithm, seed, ENV_ID)
    try:
        clock.start()
        train(clock)
        clock.stop()
    finally:
        close()


def recipe_config(algorithm: str, seed: int) -> Any:
    """The config of the recipe with the algorithm's name, with this seed."""
    return replace(find_recipe(algorithm).config(), env_id=ENV_ID, seed=seed)


def drive(pipeline: Pipeline, clock: Race) -> None:
    """Train in a minimal loop, the same for rlpipe and TorchRL's parts: collect, learn."""
    frames = 0
    with contextlib.closing(pipeline):
        clock.start()
        for batch in pipeline.collector:
            pipeline.learn(batch)
            frames += batch.numel()
            if clock(pipeline.policy, frames):
                break
        clock.stop()
