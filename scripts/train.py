"""`rlpipe train RECIPE`: train an agent and write a run folder."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlpipe.errors import ConfigError, exists_already
from rlpipe.pipelines.algorithms.recipes import RECIPES, Recipe, find_recipe
from rlpipe.pipelines.algorithms.recipes.config_file import as_text
from rlpipe.pipelines.runs.loggers.loggers import check_loggers, check_option
from rlpipe.pipelines.runs.new_folder import default_folder
from rlpipe.scripts.cli.config_option import configured, split_config
from rlpipe.scripts.cli.help import filled, heading, listed
from rlpipe.scripts.cli.options import parse
from rlpipe.scripts.cli.train_options import Options, find_weights
from rlpipe.scripts.display.progress_bar import describe, display
from rlpipe.scripts.display.starting import meanwhile, starting
from rlpipe.scripts.main import run
from rlpipe.scripts.resume import main as resume
from rlpipe.scripts.seeds.train_seeds import main as train_seeds

if TYPE_CHECKING:
    from rlpipe.pipelines.config.train import TrainConfig


EXAMPLES = (
    ("rlpipe train ppo", "a recipe as it is"),
    ("rlpipe train ppo --env-id Acrobot-v1 --seed 3", "another environment and seed"),
    ("rlpipe train ppo --watch", "a live view of the training"),
    ("rlpipe train ppo --seeds 0-9 --jobs 2", "ten seeds, two at a time"),
    ("rlpipe train my_ppo.py", "an algorithm of your own"),
    ("rlpipe train ppo --print-config > my.json", "all options in a file"),
    ("rlpipe train --config my.json --lr 1e-3", "options from a file"),
    ("rlpipe resume RUN", "continue a run"),
)


def usage() -> str:
    """What `rlpipe train` says without a recipe."""
    recipes = filled(", ".join(RECIPES))
    return (
        "usage: rlpipe train RECIPE [options]\n\nTrain an agent, evaluate it, and write a run folder.\n\n"
        + "\n".join([heading("examples"), *listed(EXAMPLES, 50)])
        + f"\n\n{heading('recipes')} (rlpipe recipes says what they are)\n{recipes}\n\n"
        "rlpipe train RECIPE --help lists the options of a recipe.\n"
    )


def main(arguments: Sequence[str]) -> int:
    """Train, evaluate, and print a summary."""
    began = time.perf_counter()
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage(), end="")
        return 0
    if arguments[0] == "--resume":
        return resume(arguments[1:])
    if arguments[0].split("=")[0] == "--algo":
        raise ConfigError("no option is called --algo; the recipe comes before the options: rlpipe train ppo")
    with meanwhile(f"rlpipe train {arguments[0]}", quiet="--quiet" in arguments):
        recipe, options, arguments = _read(arguments)
    if options.print_config:
        from rlpipe.pipelines.config.json_form import checked

        print(as_text(recipe, checked(options.config)))
        return 0
    if options.seeds is not None or options.jobs is not None:
        return train_seeds(recipe, options, arguments, find_weights(recipe, options))
    summary = _train(recipe, options, began)
    print(json.dumps(summary) if options.json else describe(summary))
    return 0


def _read(arguments: Sequence[str]) -> tuple[Recipe, Options[Any], Sequence[str]]:
    """The recipe, all options, and the arguments behind the recipe."""
    recipe, default, arguments = _recipe_and_default(arguments)
    prog = recipe.name if recipe.source is None else recipe.source.text
    about = f"Train with the {'recipe' if recipe.source is None else 'algorithm'} {prog}"
    about += f": {recipe.summary}." if recipe.summary else "."
    options = parse(
        Options[type(default)],  # type: ignore[misc, arg-type]
        arguments,
        prog=f"rlpipe train {prog}",
        description=f"{about} --config FILE reads options from a JSON or YAML file; those given here win.",
        default=Options(default),
        owners=recipe.owners,
    )
    if recipe.source is None:
        from rlpipe.pipelines.envs.arguments.known import env_spec

        for env_id in filter(None, (options.config.env_id, options.config.eval_env_id)):
            env_spec(env_id)
    return recipe, options, arguments


def _recipe_and_default(arguments: Sequence[str]) -> tuple[Recipe, Any, Sequence[str]]:
    """The recipe, its Config, or that of the file of `--config`, and the arguments behind these two."""
    file, arguments = split_config(arguments)
    recipe = None
    if arguments and not arguments[0].startswith("-"):
        recipe, arguments = _find(arguments[0], quiet="--quiet" in arguments), arguments[1:]
    if file is not None:
        return *configured(file, recipe, arguments), arguments
    if recipe is None:
        raise ConfigError(
            f"the recipe comes before the options, got {arguments[0]!r}; try: rlpipe train ppo {arguments[0]} ..."
        )
    return recipe, recipe.config(), arguments


def _find(name: str, *, quiet: bool) -> Recipe:
    if name in RECIPES:
        return RECIPES[name]
    # the algorithm in a user's file, which imports PyTorch
    file = Path(name.partition(":")[0])
    with starting(name, quiet=quiet or file.suffix != ".py" or not file.is_file(), in_files=True):
        return find_recipe(name)


def _train(recipe: Recipe, options: Options[TrainConfig], began: float) -> dict[str, Any]:
    from rlpipe.pipelines.config.json_form import checked

    config = checked(options.config)
    folder = options.run_dir or default_folder(recipe.name, config.seed)
    if options.run_dir is not None and os.path.lexists(folder):
        raise exists_already("run-dir", folder)
    loggers = check_loggers(check_option(options.logger))
    start = find_weights(recipe, options)
    shown = display(recipe.name, config, watch=options.watch, quiet=options.quiet)
    with starting(f"{recipe.name} on {config.env_id}, seed {config.seed}", quiet=options.quiet, in_files=True):
        from rlpipe.pipelines.session import Session
        from rlpipe.pipelines.summary import Stopwatch

    session = Session(
        recipe,
        config,
        folder,
        numbered=options.run_dir is None,
        start_from=None if start is None else start.path,
        display=shown,
        loggers=loggers,
        watch=Stopwatch(began),
    )
    return session.run(start)


if __name__ == "__main__":
    sys.exit(run(["train", *sys.argv[1:]]))
