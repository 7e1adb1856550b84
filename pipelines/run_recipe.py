"""`run_recipe`: train from Python as `rlpipe train` does."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlpipe.errors import ConfigError
from rlpipe.pipelines.algorithms.recipes import Recipe, find_recipe
from rlpipe.pipelines.build.resumed import check_listeners, configs_of, loggers_of, read_resumed
from rlpipe.pipelines.config.environment import ALIASES, with_aliases
from rlpipe.pipelines.config.foreign_names import explain
from rlpipe.pipelines.config.json_form import checked, made
from rlpipe.pipelines.config.run import settings_of
from rlpipe.pipelines.config.schedules import with_schedules
from rlpipe.pipelines.config.start import find_start
from rlpipe.pipelines.progress import Listener
from rlpipe.pipelines.runs.loggers.loggers import DEFAULT, check_loggers
from rlpipe.pipelines.runs.new_folder import default_folder
from rlpipe.pipelines.session import Session, continue_run
from rlpipe.pipelines.training.listeners import Moment, listener_names
from rlpipe.pipelines.training.progress_bar import shown as shown_progress

_ONE_AT_A_TIME = threading.RLock()
_OPTIONS = (*ALIASES.values(), "folder", "progress", "loggers", "start_from", "take", "listeners", "resume")


def run_recipe(
    name: str | Path,
    *,
    env: Any = None,
    folder: Path | str | None = None,
    start_from: Path | str | None = None,
    take: Sequence[str] = (),
    progress: Listener | bool | None = True,
    loggers: Sequence[str] | str | None = DEFAULT,
    wrappers: Sequence[Any] | None = None,
    listeners: Sequence[Callable[[Moment], object]] = (),
    resume: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Train with a recipe, as `rlpipe train` does: `run_recipe("ppo", seed=3, lr=1e-3)`.

    Runs in several threads wait for one another, because whether policies explore is one setting of the process.
    During training, the global generators of PyTorch, NumPy and Python are seeded with the run's seed, and PyTorch uses
    the recipe's number of threads; afterwards all are as before.

    Args:
        name: of the recipe; or an algorithm of your own, as `rlpipe train` takes it: `my_algorithm.py`, `module:name`.
        env: the environment, in place of `env_id`, which may be the same: an id, `module:name`, a class, a function
            that makes one, a spec or an instance. Its arguments are `env_kwargs`.
        folder: of the run, to make; by default `runs/<recipe>/<seed>-<time>`, with a number after it if that exists.
        start_from: a run whose weights to start with: its folder, `RUN@best` or a checkpoint.
        take: the parts to take of that run, of `policy`, `critic` and `statistics`; by default all that there are.
        progress: shows a bar on stderr, or nothing if `False`; or a function, called at the start, with each line of
            metrics, and before and after each evaluation: `progress=lambda now: print(now.frames, now.scalars)`. If it
            returns `False` or raises `StopTraining`, the run ends after the batch with a checkpoint, the final
            evaluation and the summary. Any other exception, such as Optuna's `TrialPruned`, is raised after a
            checkpoint.
        loggers: of `tensorboard`, `wandb` and `mlflow`, one or several; `None` or `()` for none.
        wrappers: of the environment, the innermost first: see `EnvConfig`. On the command line it is `--wrapper`.
        listeners: functions of one argument, a `Moment`, which are called at the moments of training, see `train`. The
            command line cannot resume such a run, because it does not have them.
        resume: continue the run in `folder` from its newest checkpoint, with its own config and the same listeners;
            options that are given must be those of the run, but `total_frames` may be larger.
        options: fields of the recipe's Config; a number may be a schedule, as `clip="linear:0.2:0"`.

    Returns:
        The summary that `rlpipe train --json` prints: `run`, its folder, and `evaluation`, of the greedy policy, in it.

    Raises:
        ConfigError: there is no such recipe or option, a value is not allowed, or the folder exists.
        TrainingError: training failed; says where and why.
        InterruptedRunError: by Ctrl-C or SIGTERM; says how to resume the run.
    """
    recipe = find_recipe(str(name))
    options = with_aliases(options, env_id=env, wrapper=wrappers)
    config = _config(recipe, str(name), options)
    if not (progress is None or isinstance(progress, bool) or callable(progress)):
        raise ConfigError(f"progress is {progress!r}; expected a function of one argument, True or False")
    if resume and start_from is not None:
        raise ConfigError("resume is True, and start_from is given, which only a new run has; leave one out")
    start = find_start(start_from, take, config, recipe=recipe.name, algorithm=recipe.algorithm)
    named = [loggers] if isinstance(loggers, str) else list(loggers or ())
    listener_names(listeners)
    session = Session(
        recipe,
        config,
        default_folder(recipe.name, config.seed) if folder is None else Path(folder),
        numbered=folder is None,
        start_from=None if start is None else start.path,
        display=lambda *_: shown_progress(progress, recipe.name, settings_of(session.config).total_frames),
        loggers=check_loggers(named),
        listeners=tuple(listeners),
    )
    # a policy that explores must not become greedy while another is evaluated
    with _ONE_AT_A_TIME:
        if not resume:
            return session.run(start)
        described = read_resumed(folder, recipe.algorithm, config)
        check_listeners(described, listeners)
        before, config = configs_of(described, config, list(options))
        session = dataclasses.replace(
            session,
            recipe=dataclasses.replace(recipe, name=described["recipe"]),
            config=config,
            resume=True,
            start_from=described.get("start_from"),
            loggers=loggers_of(described) if loggers is DEFAULT else session.loggers,
        )
        return continue_run(session, before)


def _config(recipe: Recipe, name: str, options: Mapping[str, Any]) -> Any:
    """The config of a recipe with these options, of which numbers may be schedules."""
    config = recipe.config()
    names = [field.name for field in dataclasses.fields(config)]
    if unknown := [option for option in options if option not in names]:
        hint = explain(unknown[0], [*names, *_OPTIONS], recipe.owners, python=True)
        raise ConfigError(f"{name} has no option {unknown[0]!r}; {hint or 'there are ' + ', '.join(names)}")
    changed = with_schedules(options, type(config), getattr(config, "schedule", ()))
    return checked(made(type(config), {**{each: getattr(config, each) for each in names}, **changed}))
