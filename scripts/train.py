"""`rlpipe train RECIPE`: train an agent and write a run folder."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from rlpipe.errors import ConfigError, InterruptedRunError
from rlpipe.pipelines.folder import read_run
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


SHAPING_FIELDS = {
    "env_id",
    "hidden",
    "activation",
    "layer_norm",
    "observation_scale",
    "state_dependent_std",
    "shared_trunk",
    "dueling",
    "baseline",
    "normalize_frames",
    "bins",
    "bin_low",
    "bin_high",
    "beta",
}
"""Config fields that say what the weights of a run mean; a run that starts from them must agree."""


@dataclass(frozen=True)
class Options(Generic[C]):
    """What `rlpipe train` takes beside the recipe's Config."""

    config: C
    run_dir: Path | None = None
    """The run folder to make; by default runs/RECIPE/SEED-TIME."""
    start_from: Path | None = None
    """Begin with what a run has learned (its newest checkpoint), or one of its checkpoints."""
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

    from rlpipe.pipelines.build import load_weights
    from rlpipe.pipelines.render import check_drawable
    from rlpipe.pipelines.run import Run, default_folder
    from rlpipe.scripts.progress import ProgressBar

    logging.getLogger("torchrl").setLevel(logging.WARNING)
    config = options.config
    torch.set_num_threads(config.threads)
    folder = options.run_dir or default_folder(recipe.name, config.seed)
    if os.path.exists(folder):
        raise ConfigError(f"run-dir {folder} exists already; nothing was overwritten, name a new one")
    weights = None if options.start_from is None else _find_weights(options.start_from, recipe, config)
    with contextlib.ExitStack() as stack:
        pipeline = stack.enter_context(contextlib.closing(builder(recipe.algorithm)(config)))
        if config.gif:
            check_drawable(config.eval_env)
        if weights is not None:
            load_weights(weights, pipeline)
        written = stack.enter_context(contextlib.closing(Run(folder, recipe.name, recipe.algorithm, config)))
        bar = stack.enter_context(
            contextlib.closing(ProgressBar(recipe.name, config.total_frames, quiet=options.quiet))
        )
        try:
            result, evaluation = _train_and_judge(config, pipeline, written, bar)
        except KeyboardInterrupt:
            raise InterruptedRunError(f"interrupted; what was written so far is in {folder}") from None
    return summarise(recipe.name, config, result, evaluation, folder)


def _find_weights(path: Path, recipe: Recipe, config: TrainConfig) -> Path:
    """The checkpoint to start from, of a run whose networks are those of `config`."""
    described, checkpoint = read_run(path)
    if described["algorithm"] != recipe.algorithm:
        raise ConfigError(
            f"start-from {path} is a run of {described['algorithm']}, and the recipe {recipe.name} is one of "
            f"{recipe.algorithm}"
        )
    now = json.loads(json.dumps(dataclasses.asdict(config)))
    for field in sorted(SHAPING_FIELDS & set(now)):
        if described["config"].get(field) != now[field]:
            raise ConfigError(
                f"{field} is {now[field]}, and start-from {path} was trained with {described['config'].get(field)}; "
                "they must be the same"
            )
    return checkpoint


def _train_and_judge(
    config: TrainConfig, pipeline: Pipeline, written: Run, bar: ProgressBar
) -> tuple[Result, Evaluation]:
    from rlpipe.pipelines.evaluation import evaluate
    from rlpipe.pipelines.render import record_episode, write_gif
    from rlpipe.pipelines.seeding import Seeds
    from rlpipe.pipelines.training import train

    def judge(episodes: int, stream: str, *, stochastic: bool = False) -> Evaluation:
        seed = Seeds(config.seed).integer(stream)
        return evaluate(
            pipeline.policy,
            config.eval_env,
            episodes=episodes,
            seed=seed,
            stochastic=stochastic,
            transforms=pipeline.transforms,
        )

    result = train(
        pipeline,
        written,
        evaluate=lambda: judge(config.eval_episodes, "evaluation", stochastic=config.eval_stochastic),
        eval_every=config.eval_every,
        checkpoint_every=config.checkpoint_every,
        stopping=config.stopping,
        log_every=config.log_every,
        progress=bar,
    )
    bar.close()
    evaluation = judge(config.final_eval_episodes, "final evaluation")
    written.log_evaluation(result.frames, evaluation, seconds=result.seconds, final=True)
    if config.gif:
        seed = Seeds(config.seed).integer("gif")
        frames, fps = record_episode(pipeline.policy, config.eval_env, seed=seed, transforms=pipeline.transforms)
        write_gif(written.folder / "agent.gif", frames, fps)
    return result, evaluation


def summarise(recipe: str, config: TrainConfig, result: Result, evaluation: Evaluation, folder: Path) -> dict[str, Any]:
    """The summary of a run: what `--json` prints."""
    return {
        "recipe": recipe,
        "env_id": config.env_id,
        "eval_env_id": config.eval_env.env_id,
        "seed": config.seed,
        "frames": result.frames,
        "updates": result.updates,
        "episodes": result.episodes,
        "seconds": round(result.seconds, 3),
        "frames_per_second": round(result.frames_per_second, 1),
        "stopped_early": bool(result.stopped_by),
        "stopped_by": result.stopped_by,
        "longest_streak": result.longest_streak if config.stop_after_successes is not None else None,
        "evaluation": evaluation.summary(),
        "run": str(folder),
    }


def describe(summary: Mapping[str, Any]) -> str:
    """The summary of a run for people."""
    evaluation = summary["evaluation"]
    where = "" if summary["eval_env_id"] == summary["env_id"] else f" of {summary['eval_env_id']}"
    lines = [
        f"{summary['recipe']} on {summary['env_id']}, seed {summary['seed']}",
        f"  return   {evaluation['mean']:.1f} +- {evaluation['std']:.1f} over {evaluation['episodes']} greedy episodes"
        f"{where} ({evaluation['min']:.1f} to {evaluation['max']:.1f})",
        f"  frames   {summary['frames']:,} in {summary['seconds']:.1f} s of training"
        f" ({summary['frames_per_second']:,.0f} a second), {summary['episodes']:,} episodes,"
        f" {summary['updates']:,} updates",
    ]
    if summary["stopped_early"]:
        lines.append(f"  stopped  by {summary['stopped_by']}")
    if summary["longest_streak"] is not None:
        lines.append(f"  streak   {summary['longest_streak']} successes in a row at most")
    lines += [f"  run      {summary['run']}", f"  curve    {Path(summary['run']) / 'curve.png'}"]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run(["train", *sys.argv[1:]]))
