"""`rlpipe benchmark solve`: frames and training seconds until CartPole-v1 is solved."""

from __future__ import annotations

import contextlib
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from tensordict.nn import TensorDictModuleBase

from rlpipe.pipelines.envs import EnvConfig
from rlpipe.pipelines.evaluation import evaluate
from rlpipe.pipelines.pipeline import Pipeline
from rlpipe.pipelines.recipes import builder, find_recipe
from rlpipe.scripts.baselines_sb3 import ZOO, sb3_train
from rlpipe.scripts.baselines_train import build_stock
from rlpipe.scripts.baselines_trainer import build_trainer, stop_when
from rlpipe.scripts.benchmarks.measure import Row, gather, one_thread

ALGORITHMS = ("ppo", "dqn", "a2c", "reinforce")
ENV_ID = "CartPole-v1"
SOLVED = 475.0
"""Mean greedy return that counts as solved; Gymnasium's own threshold."""
EVAL_EVERY, EVAL_EPISODES, EVAL_SEED = 2_500, 20, 0
_WARM_FRAMES = 1_500


class Race:
    """Frames and training seconds of one run; the clock stands still while the policy is evaluated.

    Args:
        solved_by: whether a policy solves the task.
        every: frames from one evaluation to the next.
    """

    def __init__(self, solved_by: Callable[[TensorDictModuleBase], bool], every: int = EVAL_EVERY) -> None:
        self.solved_by, self.every = solved_by, every
        self.frames, self.seconds, self.solved = 0, 0.0, False
        self._resumed = time.perf_counter()

    def start(self) -> None:
        """Begin to count seconds: all is built, and training begins."""
        self._resumed = time.perf_counter()

    def __call__(self, policy: TensorDictModuleBase, frames: int) -> bool:
        """Told the frames so far; evaluates where a multiple of `every` was passed. Whether the task is solved."""
        before, self.frames = self.frames, frames
        if frames // self.every > before // self.every:
            self.stop()
            self.solved = self.solved_by(policy)
            self.start()
        return self.solved

    def stop(self) -> None:
        """End the count of seconds."""
        self.seconds += time.perf_counter() - self._resumed


@dataclass(frozen=True)
class Outcome:
    """How one run went.

    Args:
        seed: of the run.
        frames: until it was solved, or all it had.
        seconds: of training, evaluation not counted.
        solved: whether it was.
    """

    seed: int
    frames: int
    seconds: float
    solved: bool


Runner = Callable[[str, int, Race], None]
"""Trains an algorithm with a seed until the race says that it is solved, or its frames are used up."""


def run(
    *,
    against: Sequence[str],
    quick: bool,
    seeds: Sequence[int],
    progress: Callable[[str], None],
    algorithms: Sequence[str] = ALGORITHMS,
) -> list[Row]:
    """Measure training seconds until the first greedy evaluation with a mean return of `SOLVED`.

    Evaluations are rlpipe's, of `EVAL_EPISODES` episodes from the same resets for all. A run that its frames end
    unsolved counts with all its seconds. rlpipe and TorchRL have the recipe's settings, Stable-Baselines3 those of
    rl-zoo3.

    Args:
        against: `torchrl` (stock parts, and the trainer classes), `sb3`, both or neither.
        quick: PPO alone, on the first seed, without the trainer classes.
        seeds: one run of each arm for each, seed by seed.
        progress: told of each run and of each algorithm that is done.
        algorithms: which to train.

    Raises:
        ConfigError: `sb3` is asked for and missing.
    """
    if quick:
        algorithms, seeds = algorithms[:1], seeds[:1]

    def rows() -> Iterator[Row]:
        for algorithm in algorithms:
            runners = make_runners(algorithm, against, trainers=not quick)
            outcomes = race(algorithm, runners, seeds, progress)
            yield to_row(algorithm, outcomes)

    with one_thread():
        return gather(rows(), progress)


def make_runners(algorithm: str, against: Sequence[str], *, trainers: bool = True) -> dict[str, Runner]:
    """The arms that there are for an algorithm, by name."""
    runners: dict[str, Runner] = {"rlpipe": run_ours}
    if "torchrl" in against:
        runners["torchrl"] = run_stock
        if trainers:
            runners["torchrl trainer"] = run_trainer
    if "sb3" in against and algorithm in ZOO:
        runners["sb3"] = run_sb3
    return runners


def race(
    algorithm: str, runners: Mapping[str, Runner], seeds: Sequence[int], progress: Callable[[str], None]
) -> dict[str, list[Outcome]]:
    """Run every arm on the first seed, then on the second, and so on, once each has run for a moment untimed."""
    for runner in runners.values():
        with one_thread():
            runner(algorithm, seeds[0], Race(lambda _: True, every=_WARM_FRAMES))
    outcomes: dict[str, list[Outcome]] = {name: [] for name in runners}
    for seed in seeds:
        for name, runner in runners.items():
            # an arm pays for its own garbage, and for no other's
            gc.collect()
            clock = Race(solves)
            # for each anew: TorchRL's environments raise the number when they are closed
            with one_thread():
                runner(algorithm, seed, clock)
            outcomes[name].append(Outcome(seed, clock.frames, clock.seconds, clock.solved))
            how = "solved" if clock.solved else "not solved"
            progress(f"{algorithm}, seed {seed}, {name}: {how}, {clock.frames} frames, {clock.seconds:.1f} s")
    return outcomes


def solves(policy: TensorDictModuleBase) -> bool:
    """Whether a greedy evaluation reaches `SOLVED`."""
    evaluation = evaluate(policy, EnvConfig(ENV_ID), episodes=EVAL_EPISODES, seed=EVAL_SEED)
    return evaluation.mean >= SOLVED


def to_row(algorithm: str, outcomes: Mapping[str, Sequence[Outcome]]) -> Row:
    """Training seconds of each run, and in `extra` the runs in full, median frames and how many were solved."""
    samples = {name: [each.seconds for each in runs] for name, runs in outcomes.items()}
    frames = {name: statistics.median(each.frames for each in runs) for name, runs in outcomes.items() if runs}
    solved = {name: sum(each.solved for each in runs) for name, runs in outcomes.items()}
    told = ", ".join(
        f"{name} {solved[name]} of {len(runs)} at {frames[name]:,.0f} frames" for name, runs in outcomes.items() if runs
    )
    extra: dict[str, Any] = {
        "runs": {name: [asdict(each) for each in runs] for name, runs in outcomes.items()},
        "frames": frames,
        "solved": solved,
        "note": f"{algorithm}, solved (median frames): {told}",
    }
    return Row(algorithm, "s of training", samples, extra)


def run_ours(algorithm: str, seed: int, clock: Race) -> None:
    """The recipe, by rlpipe."""
    drive(builder(algorithm)(recipe_config(algorithm, seed)), clock)


def run_stock(algorithm: str, seed: int, clock: Race) -> None:
    """The recipe, by TorchRL's stock parts."""
    drive(build_stock(algorithm, recipe_config(algorithm, seed)), clock)


def run_trainer(algorithm: str, seed: int, clock: Race) -> None:
    """The recipe, by TorchRL's trainer class."""
    trainer, policy = build_trainer(algorithm, recipe_config(algorithm, seed))
    stop_when(trainer, policy, clock)
    clock.start()
    trainer.train()
    clock.stop()


def run_sb3(algorithm: str, seed: int, clock: Race) -> None:
    """The settings of rl-zoo3, by Stable-Baselines3."""
    clock.start()
    sb3_train(algorithm, seed, clock, ENV_ID)
    clock.stop()


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
