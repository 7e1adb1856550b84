"""Search settings that solve CartPole-v1 soonest: `python -m rlpipe.scripts.benchmarks.search ppo`.

Draws settings at random, races each over a few seeds, and gives those that were soonest to stay solved more seeds. What
is left is trained to the recipe's end as well: many settings that are quick to solve the task have lost it again by
then.
"""

from __future__ import annotations

import contextlib
import random
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rlpipe.errors import ConfigError, RlpipeError
from rlpipe.pipelines.envs import EnvConfig
from rlpipe.pipelines.evaluation import evaluate
from rlpipe.pipelines.recipes import builder
from rlpipe.scripts.benchmarks.measure import one_thread
from rlpipe.scripts.benchmarks.solve import ENV_ID, Outcome, Race, drive, greedy_mean, recipe_config
from rlpipe.scripts.options import parse

_ACTOR_CRITIC: dict[str, Sequence[Any]] = {
    "num_envs": (8, 16, 32, 64),
    "rollout_steps": (8, 16, 32, 64),
    "lr": (1e-3, 2e-3, 3e-3, 5e-3, 8e-3),
    "gamma": (0.98, 0.99),
    "lmbda": (0.8, 0.9, 0.95, 1.0),
    "hidden": ((32, 32), (64, 64), (64,), (128,)),
    "activation": ("tanh", "relu"),
    "max_grad_norm": (0.5, 1.0, None),
}
SPACES: dict[str, dict[str, Sequence[Any]]] = {
    "ppo": {
        **_ACTOR_CRITIC,
        "minibatch_size": (64, 128, 256, 512),
        "epochs": (4, 6, 10, 15, 20),
        "clip": (0.1, 0.2, 0.3),
        "value_coefficient": (0.1, 0.5, 1.0),
    },
    "a2c": {
        **_ACTOR_CRITIC,
        "value_coefficient": (0.003, 0.01, 0.03, 0.1, 0.5),
        "entropy_coefficient": (0.0, 0.003, 0.01),
    },
    "dqn": {
        "num_envs": (8, 16, 32),
        "rollout_steps": (4, 8, 16),
        "updates": (4, 8, 12, 16, 20),
        "minibatch_size": (64, 128, 256),
        "lr": (5e-4, 1e-3, 2e-3, 3e-3),
        "n_steps": (1, 2, 3, 4),
        "hidden": ((128,), (256,), (64, 64), (120, 84)),
        "tau": (0.02, 0.05, 0.1),
        "epsilon_frames": (2_500, 5_000),
        "epsilon_end": (0.01, 0.05),
        "warmup_frames": (512, 1_000),
    },
}
"""For each algorithm its settings, and what each is drawn from; the rest is the recipe's."""


@dataclass(frozen=True)
class Options:
    """What the search takes."""

    trials: int = 60
    """Settings that are drawn, the recipe's own not counted."""
    seed: int = 0
    """Of the draws."""
    rounds: int = 3
    """Rounds: in each, two seeds more for the quarter that was best so far."""
    total_frames: int = 50_000
    """Of each run of a race."""


@dataclass
class Trial:
    """Settings, and the runs that were made with them."""

    settings: Mapping[str, Any]
    runs: list[Outcome]
    finals: list[float] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Median seconds until it was solved for good; of a run that was not, four times all its seconds."""
        return statistics.median(each.lasting.seconds if each.lasting else 4 * each.seconds for each in self.runs)

    def __str__(self) -> str:
        frames = statistics.median((each.lasting or each).frames for each in self.runs)
        solved = sum(each.lasting is not None for each in self.runs)
        settings = " ".join(f"{name}={value}" for name, value in self.settings.items()) or "(the recipe)"
        finals = f"  at the end {' '.join(f'{each:.0f}' for each in self.finals)}" if self.finals else ""
        return f"{self.seconds:6.2f} s  {frames:6.0f} frames  solved {solved} of {len(self.runs)}{finals}  {settings}"


def draw(algorithm: str, source: random.Random, total_frames: int) -> dict[str, Any]:
    """Settings from the algorithm's space that make a valid config."""
    while True:
        settings = {name: source.choice(values) for name, values in SPACES[algorithm].items()}
        try:
            replace(recipe_config(algorithm, 0), **settings, total_frames=total_frames)
        except ConfigError:
            continue
        return settings


def race(algorithm: str, settings: Mapping[str, Any], seed: int, total_frames: int) -> Outcome:
    """One run."""
    config = replace(recipe_config(algorithm, seed), **settings, total_frames=total_frames)
    clock = Race(greedy_mean, frames=total_frames)
    drive(builder(algorithm)(config), clock)
    return clock.outcome(seed)


def final_return(algorithm: str, settings: Mapping[str, Any], seed: int) -> float:
    """Mean greedy return over 100 episodes after all of the recipe's frames."""
    pipeline = builder(algorithm)(replace(recipe_config(algorithm, seed), **settings))
    with contextlib.closing(pipeline):
        for batch in pipeline.collector:
            pipeline.learn(batch)
        return evaluate(pipeline.policy, EnvConfig(ENV_ID), episodes=100, seed=seed).mean


def search(algorithm: str, options: Options) -> list[Trial]:
    """The trials, best first, those with the most runs before the others."""
    source = random.Random(options.seed)
    drawn = [draw(algorithm, source, options.total_frames) for _ in range(options.trials)]
    trials = [Trial(settings, []) for settings in [{}, *drawn]]
    racing = trials
    for number in range(options.rounds):
        for trial in racing:
            for seed in (2 * number, 2 * number + 1):
                trial.runs.append(race(algorithm, trial.settings, seed, options.total_frames))
            print(f"round {number + 1}: {trial}", file=sys.stderr, flush=True)
        best = sorted(racing[1:], key=lambda trial: trial.seconds)
        # the recipe itself stays in the race to be compared with
        racing = [trials[0], *best[: max(1, len(best) // 4)]]
    for trial in racing:
        trial.finals = [final_return(algorithm, trial.settings, seed) for seed in range(2 * options.rounds)]
        print(f"to the end: {trial}", file=sys.stderr, flush=True)
    return sorted(trials, key=lambda trial: (-len(trial.runs), trial.seconds))


def main(arguments: Sequence[str]) -> int:
    """Search, and print the trials."""
    algorithm, *rest = arguments or ["--help"]
    if algorithm not in SPACES and algorithm not in ("-h", "--help"):
        raise ConfigError(f"no space is written down for {algorithm!r}; there are {', '.join(SPACES)}")
    rest = rest if algorithm in SPACES else ["--help"]
    options = parse(Options, rest, prog=f"search {algorithm}", description="Search settings that solve CartPole-v1.")
    with one_thread():
        for trial in search(algorithm, options):
            print(trial)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except RlpipeError as error:
        print(f"search: error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
