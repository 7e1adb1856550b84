"""`rlpipe train RECIPE`: train an agent and write a run folder."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from rlpipe.errors import ConfigError, InterruptedRunError
from rlpipe.pipelines.recipes import RECIPES, Recipe, builder, find_recipe
from rlpipe.scripts.main import run
from rlpipe.scripts.options import parse

if TYPE_CHECKING:
    from rlpipe.pipelines.config import TrainConfig
    from rlpipe.pipelines.evaluation import Evaluation
    from rlpipe.pipelines.pipeline import Pipeline
    from rlpipe.pipelines.run import Run
    from rlpipe.pipelines.training import Result
    from rlpipe.scripts.progress import ProgressBar

C = TypeVar("C")

USAGE = f"""usage: rlpipe train RECIPE [options]

Train an agent by a recipe; rlpipe train RECIPE --help lists the recipe's options.

recipes: {", ".join(RECIPES)}
"""


@dataclass(frozen=True)
class Options(Generic[C]):
    """What `rlpipe train` takes beside the recipe's Config."""

    config: C
    run_dir: Path | None = None
    """The run folder to make; by default runs/RECIPE/SEED-TIME."""
    json: bool = False
    """Print the summary as one JSON object."""
    quiet: bool = False
    """No progress bar."""


def main(arguments: Sequence[str]) -> int:
    """Train, evaluate, and print a summary."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    if arguments[0].startswith("-"):
        raise ConfigError(
            f"the recipe comes before the options, got {arguments[0]!r}; try: rlpipe train ppo {arguments[0]} ..."
        )
    recipe = find_recipe(arguments[0])
    default = recipe.config()
    options = parse(
        Options[type(default)],  # type: ignore[misc, arg-type]
        arguments[1:],
        prog=f"rlpipe train {recipe.name}",
        description=f"Train by the recipe {recipe.name}: {recipe.summary}.",
        default=Options(default),
    )
    summary = _train(recipe, options)
    print(json.dumps(summary) if options.json else describe(summary))
    return 0


def _train(recipe: Recipe, options: Options[TrainConfig]) -> dict[str, Any]:
    import torch

    from rlpipe.pipelines.run import Run, default_folder
    from rlpipe.scripts.progress import ProgressBar

    logging.getLogger("torchrl").setLevel(logging.WARNING)
    config = options.config
    torch.set_num_threads(config.threads)
    folder = options.run_dir or default_folder(recipe.name, config.seed)
    if os.path.exists(folder):
        raise ConfigError(f"run-dir {folder} exists already; nothing was overwritten, name a new one")
    with contextlib.ExitStack() as stack:
        pipeline = stack.enter_context(contextlib.closing(builder(recipe.algorithm)(config)))
        written = stack.enter_context(contextlib.closing(Run(folder, recipe.name, recipe.algorithm, config)))
        bar = stack.enter_context(
            contextlib.closing(ProgressBar(recipe.name, config.total_frames, quiet=options.quiet))
        )
        try:
            result, evaluation = _train_and_judge(config, pipeline, written, bar)
        except KeyboardInterrupt:
            raise InterruptedRunError(f"interrupted; what was written so far is in {folder}") from None
    return summarise(recipe.name, config, result, evaluation, folder)


def _train_and_judge(
    config: TrainConfig, pipeline: Pipeline, written: Run, bar: ProgressBar
) -> tuple[Result, Evaluation]:
    from rlpipe.pipelines.evaluation import evaluate
    from rlpipe.pipelines.seeding import Seeds
    from rlpipe.pipelines.training import train

    def judge(episodes: int, stream: str) -> Evaluation:
        seed = Seeds(config.seed).integer(stream)
        return evaluate(pipeline.policy, config.env, episodes=episodes, seed=seed)

    result = train(
        pipeline,
        written,
        evaluate=lambda: judge(config.eval_episodes, "evaluation"),
        eval_every=config.eval_every,
        checkpoint_every=config.checkpoint_every,
        stop_at_return=config.stop_at_return,
        total_episodes=config.total_episodes,
        progress=bar,
    )
    bar.close()
    evaluation = judge(config.final_eval_episodes, "final evaluation")
    written.log_evaluation(result.frames, evaluation, final=True)
    return result, evaluation


def summarise(recipe: str, config: TrainConfig, result: Result, evaluation: Evaluation, folder: Path) -> dict[str, Any]:
    """The summary of a run: what `--json` prints."""
    return {
        "recipe": recipe,
        "env_id": config.env_id,
        "seed": config.seed,
        "frames": result.frames,
        "updates": result.updates,
        "seconds": round(result.seconds, 3),
        "frames_per_second": round(result.frames_per_second, 1),
        "stopped_early": result.stopped_early,
        "evaluation": evaluation.summary(),
        "run": str(folder),
    }


def describe(summary: Mapping[str, Any]) -> str:
    """The summary of a run for people."""
    evaluation = summary["evaluation"]
    early = ", stopped early" if summary["stopped_early"] else ""
    return "\n".join(
        [
            f"{summary['recipe']} on {summary['env_id']}, seed {summary['seed']}",
            f"  return   {evaluation['mean']:.1f} +- {evaluation['std']:.1f} over {evaluation['episodes']} greedy"
            f" episodes ({evaluation['min']:.1f} to {evaluation['max']:.1f})",
            f"  frames   {summary['frames']:,} in {summary['seconds']:.1f} s of training"
            f" ({summary['frames_per_second']:,.0f} a second{early}), {summary['updates']:,} updates",
            f"  run      {summary['run']}",
            f"  curve    {Path(summary['run']) / 'curve.png'}",
        ]
    )


if __name__ == "__main__":
    sys.exit(run(["train", *sys.argv[1:]]))
