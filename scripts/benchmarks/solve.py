"""`rlpipe benchmark solve`: frames and training seconds until CartPole-v1 is solved and stays solved."""

from __future__ import annotations

import contextlib
import functools
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
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
from rlpipe.scripts.benchmarks.measure import REFERENCE, Row, gather, one_thread

BUDGETS = {"ppo": 50_000, "dqn": 50_000, "a2c": 100_000, "reinforce": 100_000}
"""Frames that every arm of an algorithm trains for; evaluations after them do not count."""
ENV_ID = "CartPole-v1"
SOLVED = 475.0
"""Mean greedy return that counts as solved; Gymnasium's own threshold."""
EVAL_EVERY, EVAL_EPISODES, EVAL_SEED = 2_500, 20, 0
_WARM_FRAMES = 1_500


@dataclass(frozen=True)
class Checked:
    """One evaluation in the middle of training.

    Args:
        frames: collected before it.
        seconds: of training before it; evaluations do not count.
        mean: greedy return.
    """

    frames: int
    seconds: float
    mean: float


def first_touch(checks: Sequence[Checked], threshold: float = SOLVED) -> Checked | None:
    """The first evaluation with a mean of at least the threshold; later ones may fall below it again."""
    return next((each for each in checks if each.mean >= threshold), None)


def lasting(checks: Sequence[Checked], threshold: float = SOLVED) -> Checked | None:
    """The first evaluation of at least the threshold after which none falls below it; `None` if the last one does."""
    found = None
    for each in reversed(checks):
        if not each.mean >= threshold:
            break
        found = each
    return found


class Race:
    """The evaluations of one run, made while its clock stands still.

    Args:
        judge: the mean greedy return of a policy.
        frames: after which training ends.
        every: frames from one evaluation to the next.
    """

    def __init__(self, judge: Callable[[TensorDictModuleBase], float], *, frames: int, every: int = EVAL_EVERY) -> None:
        self.judge, self.budget, self.every = judge, frames, every
        self.frames, self.seconds = 0, 0.0
        self.checks: list[Checked] = []
        self._resumed = time.perf_counter()

    def start(self) -> None:
        """Begin to count seconds: all is built, and training begins."""
        self._resumed = time.perf_counter()

    def __call__(self, policy: TensorDictModuleBase, frames: int) -> bool:
        """Told the frames so far; evaluates where a multiple of `every` was passed. Whether the budget is used up."""
        before, self.frames = self.frames, frames
        if frames // self.every > before // self.every:
            self.stop()
            self.checks.append(Checked(frames, self.seconds, self.judge(policy)))
            self.start()
        return frames >= self.budget

    def stop(self) -> None:
        """End the count of seconds."""
        self.seconds += time.perf_counter() - self._resumed

    def outcome(self, seed: int) -> Outcome:
        """How the run of this seed went."""
        return Outcome(seed, self.frames, self.seconds, tuple(self.checks))


@dataclass(frozen=True)
class Outcome:
    """How one run went.

    Args:
        seed: of the run.
        frames: all that it trained for.
        seconds: of all its training, evaluations not counted.
        checks: its evaluations, in their order.
    """

    seed: int
    frames: int
    seconds: float
    checks: tuple[Checked, ...]

    @property
    def lasting(self) -> Checked | None:
        """Where it was solved for good; `None` if it never was."""
        return lasting(self.checks)

    @property
    def touched(self) -> Checked | None:
        """Where it first reached the threshold; `None` if it never did."""
        return first_touch(self.checks)

    @property
    def lowest(self) -> float | None:
        """The least mean of an evaluation after the first touch; `None` without one."""
        touched = self.touched
        return min((each.mean for each in self.checks if touched and each.frames > touched.frames), default=None)

    def __str__(self) -> str:
        if self.touched is None:
            return f"not solved in {self.frames} frames, {self.seconds:.2f} s"
        first = f"first touch at {self.touched.frames} frames, {self.touched.seconds:.2f} s"
        if self.lasting is None:
            return f"not lasting in {self.frames} frames, {self.seconds:.2f} s; {first}, then down to {self.lowest:.0f}"
        return f"lasting from {self.lasting.frames} frames, {self.lasting.seconds:.2f} s; {first}"


Runner = Callable[[str, int, Race], None]
"""Trains an algorithm with a seed until the race says that its budget is used up."""


def run(
    *,
    against: Sequence[str],
    quick: bool,
    seeds: Sequence[int],
    progress: Callable[[str], None],
    algorithms: Sequence[str] = tuple(BUDGETS),
    frames: int | None = None,
) -> list[Row]:
    """Measure training until CartPole-v1 is solved for good, and until it is first touched.

    A run counts as solved at the first greedy evaluation with a mean return of `SOLVED` or more after which no later
    one within the budget falls below it, so every run trains for its whole budget. Evaluations are rlpipe's, of
    `EVAL_EPISODES` episodes from the same resets for all. rlpipe and TorchRL have the recipe's settings and schedules,
    Stable-Baselines3 those of rl-zoo3. What is built before training is on no arm's clock.

    Args:
        against: whom to compare with, by the names of `make_runners`.
        quick: PPO alone, on the first seed, for half its frames and without the trainer class.
        seeds: one run of each arm for each, seed by seed.
        progress: told of each run and of each algorithm that is done.
        algorithms: which to train.
        frames: the budget of all; `None` for those of `BUDGETS`.

    Raises:
        ConfigError: `sb3` is asked for and missing.
    """
    if quick:
        algorithms, seeds, frames = algorithms[:1], seeds[:1], frames or BUDGETS[algorithms[0]] // 2
        against = [name for name in against if name != "torchrl trainer"]

    def rows() -> Iterator[Row]:
        for algorithm in algorithms:
            budget = frames or BUDGETS[algorithm]
            outcomes = race(algorithm, make_runners(algorithm, against), seeds, budget, progress)
            yield from to_rows(algorithm, outcomes, budget)

    with one_thread():
        return gather(rows(), progress)


def make_runners(algorithm: str, against: Sequence[str]) -> dict[str, Runner]:
    """The arms that there are for an algorithm, by name, rlpipe first."""
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
    """Run every arm on the first seed, then on the second, and so on, once each has run for a moment untimed."""
    for runner in runners.values():
        with one_thread():
            runner(algorithm, seeds[0], Race(lambda _: 0.0, frames=_WARM_FRAMES))
    outcomes: dict[str, list[Outcome]] = {name: [] for name in runners}
    for seed in seeds:
        for name, runner in runners.items():
            # an arm pays for its own garbage, and for no other's
            gc.collect()
            clock = Race(greedy_mean, frames=frames)
            # for each anew: TorchRL's environments raise the number when they are closed
            with one_thread():
                runner(algorithm, seed, clock)
            outcomes[name].append(clock.outcome(seed))
            progress(f"{algorithm}, seed {seed}, {name}: {outcomes[name][-1]}")
    return outcomes


def greedy_mean(policy: TensorDictModuleBase) -> float:
    """The mean return of a greedy evaluation."""
    return evaluate(policy, EnvConfig(ENV_ID), episodes=EVAL_EPISODES, seed=EVAL_SEED).mean


def to_rows(algorithm: str, outcomes: Mapping[str, Sequence[Outcome]], frames: int) -> Iterator[Row]:
    """Training seconds until it was solved for good, until it was first touched, and microseconds a frame.

    A run that did not get there counts with all its seconds, which is less than what it would have taken: medians are
    right while more than half of the seeds got there. The first row's `extra` has the runs in full, and a `summary`.
    """
    extra = {
        "budget": frames,
        "runs": {name: [_as_json(each) for each in runs] for name, runs in outcomes.items()},
        "summary": summarize(outcomes),
    }
    stayed = {name: [(each.lasting or each).seconds for each in runs] for name, runs in outcomes.items()}
    yield Row(f"{algorithm}, lasting", "s of training", stayed, extra)
    touched = {name: [(each.touched or each).seconds for each in runs] for name, runs in outcomes.items()}
    yield Row(f"{algorithm}, first touch", "s of training", touched)
    costs = {name: [1e6 * each.seconds / each.frames for each in runs] for name, runs in outcomes.items()}
    yield Row(f"{algorithm}, training", "us a frame", costs)


def summarize(outcomes: Mapping[str, Sequence[Outcome]]) -> dict[str, dict[str, str]]:
    """For people: of each arm how many seeds lasted, medians, and the worst seed."""
    return {
        name: {
            "lasted": f"{sum(each.lasting is not None for each in runs)} of {len(runs)}",
            "median": _median([(each.lasting, each) for each in runs]),
            "worst": _worst([(each.lasting, each) for each in runs]),
            "first touch": _median([(each.touched, each) for each in runs]),
            "worst first touch": _worst([(each.touched, each) for each in runs]),
            "lowest after it": _lowest(runs),
        }
        for name, runs in outcomes.items()
        if runs
    }


Reached = tuple["Checked | None", Outcome]
"""Where a run got there, if it did, and the run."""


def _median(reached: Sequence[Reached]) -> str:
    seconds = statistics.median((there or run).seconds for there, run in reached)
    frames = statistics.median((there or run).frames for there, run in reached)
    spelled = _spell(seconds, frames)
    return spelled if 2 * sum(there is None for there, _ in reached) < len(reached) else f"more than {spelled}"


def _worst(reached: Sequence[Reached]) -> str:
    never = [run.seed for there, run in reached if there is None]
    if never:
        return f"not within the budget (seed{'s' * (len(never) > 1)} {', '.join(map(str, never))})"
    there, run = max(reached, key=lambda each: each[0].seconds if each[0] else 0.0)
    assert there is not None
    return f"{_spell(there.seconds, there.frames)} (seed {run.seed})"


def _spell(seconds: float, frames: float) -> str:
    return f"{seconds:.2f} s, {frames:_.0f} frames".replace("_", " ")


def _lowest(runs: Sequence[Outcome]) -> str:
    found = [(each.lowest, each.seed) for each in runs if each.lowest is not None]
    if not found:
        return ""
    lowest, seed = min(found)
    return f"{lowest:.0f} (seed {seed})"


def _as_json(outcome: Outcome) -> dict[str, Any]:
    found = {"lasting": outcome.lasting, "first_touch": outcome.touched}
    return {**asdict(outcome), **{name: check and asdict(check) for name, check in found.items()}}


def run_ours(algorithm: str, seed: int, clock: Race) -> None:
    """The recipe, by rlpipe."""
    drive(builder(algorithm)(recipe_config(algorithm, seed)), clock)


def run_stock(algorithm: str, seed: int, clock: Race, kind: StockKind | None = None) -> None:
    """The recipe, by TorchRL's stock parts."""
    drive(build_stock(algorithm, recipe_config(algorithm, seed), kind), clock)


def run_trainer(algorithm: str, seed: int, clock: Race) -> None:
    """The recipe, by TorchRL's trainer class."""
    trainer, policy = build_trainer(algorithm, recipe_config(algorithm, seed))
    stop_when(trainer, policy, clock)
    clock.start()
    trainer.train()
    clock.stop()


def run_sb3(algorithm: str, seed: int, clock: Race) -> None:
    """The settings of rl-zoo3, by Stable-Baselines3."""
    train, close = build_sb3(algorithm, seed, ENV_ID)
    try:
        clock.start()
        train(clock)
        clock.stop()
    finally:
        close()


def recipe_config(algorithm: str, seed: int) -> Any:
    """The recipe that has the algorithm's name, with this seed."""
    return replace(find_recipe(algorithm).config(), env_id=ENV_ID, seed=seed)


def drive(pipeline: Pipeline, clock: Race) -> None:
    """The same bare loop for rlpipe and for stock parts: collect, learn."""
    frames = 0
    with contextlib.closing(pipeline):
        clock.start()
        for batch in pipeline.collector:
            pipeline.learn(batch)
            frames += batch.numel()
            if clock(pipeline.policy, frames):
                break
        clock.stop()
