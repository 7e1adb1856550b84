"""`rlpipe evaluate RUN`: evaluate a run or a checkpoint."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlpipe.formatting import statistics
from rlpipe.pipelines.agents.limits import check_evaluation
from rlpipe.pipelines.runs.read import read_run
from rlpipe.scripts.cli.options import RUN, RunOptions, parse_run
from rlpipe.scripts.display.starting import meanwhile, starting
from rlpipe.scripts.main import run


@dataclass(frozen=True)
class Options(RunOptions):
    """Options of `rlpipe evaluate`."""

    episodes: int = 100
    """Number of episodes."""
    seed: int | None = None
    """Seed of the environments' resets; by default that of the run's final evaluation."""
    stochastic: bool = False
    """Sample actions instead of taking the greedy ones."""
    eval_envs: int | None = None
    """Maximum number of environments; by default the run's own."""


def main(arguments: Sequence[str]) -> int:
    """Evaluate, and print the result."""
    path, options = parse_run(
        Options, arguments, "evaluate", f"Measure the returns of a run's agent in new episodes. {RUN}"
    )
    check_evaluation(episodes=options.episodes, seed=options.seed, eval_envs=options.eval_envs)
    summary = _evaluate(path, options)
    print(json.dumps(summary) if options.json else _describe(summary))
    return 0


def _evaluate(path: Path, options: Options) -> dict[str, Any]:
    # fails fast, before heavy imports
    read_run(path, options.trust_module)

    with starting(str(path)):
        from rlpipe.pipelines.agents.load import load

        # this is what imports PyTorch
        agent = load(path, trust=options.trust_module)

    with meanwhile(f"{path}: evaluating, {options.episodes:,} episodes"):
        evaluation = agent.evaluate(
            options.episodes,
            seed=options.seed,
            deterministic=not options.stochastic,
            eval_envs=options.eval_envs,
        )
    return {
        "recipe": agent.recipe,
        "env_id": agent.settings.eval_env.env_id,
        "checkpoint": str(agent.checkpoint),
        "stochastic": options.stochastic,
        "evaluation": evaluation.summary(),
    }


def _describe(summary: dict[str, Any]) -> str:
    evaluation, found = summary["evaluation"], statistics(summary["evaluation"])
    how = "sampled" if summary["stochastic"] else "greedy"
    rate = f", success {evaluation['success_rate']:.1%}" if "success_rate" in evaluation else ""
    return (
        f"{summary['recipe']} on {summary['env_id']}: evaluation return {found['mean']} +- {found['std']} over "
        f"{evaluation['episodes']} {how} episodes ({found['min']} to {found['max']}){rate}"
    )


if __name__ == "__main__":
    sys.exit(run(["evaluate", *sys.argv[1:]]))
