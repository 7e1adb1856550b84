"""`rlpipe evaluate RUN`: evaluate a run or a checkpoint."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlpipe.errors import ConfigError
from rlpipe.formatting import statistics
from rlpipe.pipelines.runs.read import read_run
from rlpipe.scripts.cli.options import RUN, parse_run
from rlpipe.scripts.main import run

USAGE = (
    "usage: rlpipe evaluate RUN [--episodes 100] [--seed N] [--stochastic] [--eval-envs N] "
    "[--trust-module NAME ...] [--json]\n"
)


@dataclass(frozen=True)
class Options:
    """What `rlpipe evaluate` takes beside the run."""

    episodes: int = 100
    """How many episodes."""
    seed: int | None = None
    """Of the environments' resets; by default that of the run's own final evaluation."""
    stochastic: bool = False
    """Sample actions instead of taking the greedy ones."""
    eval_envs: int | None = None
    """Environments at most; by default as the run has it."""
    trust_module: tuple[str, ...] = ()
    """Modules to import, such as the one that the run's environment comes from."""
    json: bool = False
    """Print one JSON object."""


def main(arguments: Sequence[str]) -> int:
    """Evaluate, and print the result."""
    if not arguments:
        print(USAGE, end="")
        return 0
    path, options = parse_run(Options, arguments, usage=USAGE, prog="rlpipe evaluate RUN", description=RUN)
    if not 1 <= options.episodes <= 1_000_000:
        raise ConfigError(f"episodes is {options.episodes}; allowed is 1 or more and at most 1000000")
    if options.seed is not None and not 0 <= options.seed < 2**63:
        raise ConfigError(f"seed is {options.seed}; allowed is 0 or more, below 2^63")
    if options.eval_envs is not None and not 1 <= options.eval_envs <= 1_000:
        raise ConfigError(f"eval_envs is {options.eval_envs}; allowed is 1 or more and at most 1000")
    summary = _evaluate(path, options)
    print(json.dumps(summary) if options.json else _describe(summary))
    return 0


def _evaluate(path: Path, options: Options) -> dict[str, Any]:
    # refused at once, before anything heavy is imported
    read_run(path, options.trust_module)

    from rlpipe.pipelines.agents.load import trained
    from rlpipe.pipelines.collectors.evaluation import evaluate, most_copies
    from rlpipe.pipelines.seeding import Seeds

    logging.getLogger("torchrl").setLevel(logging.WARNING)
    with trained(path, options.trust_module) as agent:
        seed = Seeds(agent.config.seed).integer("final evaluation") if options.seed is None else options.seed
        evaluation = evaluate(
            agent.policy,
            agent.config.eval_env,
            episodes=options.episodes,
            seed=seed,
            stochastic=options.stochastic,
            transforms=agent.transforms,
            num_envs=most_copies(
                agent.config.eval_env, options.eval_envs or agent.config.eval_envs, agent.config.num_envs
            ),
        )
    return {
        "recipe": agent.recipe,
        "env_id": agent.config.eval_env.env_id,
        "checkpoint": str(agent.checkpoint),
        "stochastic": options.stochastic,
        "evaluation": evaluation.summary(),
    }


def _describe(summary: dict[str, Any]) -> str:
    evaluation, found = summary["evaluation"], statistics(summary["evaluation"])
    how = "sampled" if summary["stochastic"] else "greedy"
    rate = f", success {evaluation['success_rate']:.1%}" if "success_rate" in evaluation else ""
    return (
        f"{summary['recipe']} on {summary['env_id']}: return {found['mean']} +- {found['std']} over "
        f"{evaluation['episodes']} {how} episodes ({found['min']} to {found['max']}){rate}"
    )


if __name__ == "__main__":
    sys.exit(run(["evaluate", *sys.argv[1:]]))
