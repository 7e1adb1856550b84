"""`rlpipe.train`: train from Python, by a recipe, an algorithm of your own, or a pipeline."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from rlpipe.errors import ConfigError, shown
from rlpipe.lazy import quick_imports
from rlpipe.pipelines.algorithms.recipes import Recipe, find_recipe
from rlpipe.pipelines.algorithms.recipes.config_file import SUFFIXES, from_file, with_options
from rlpipe.pipelines.config.environment import with_aliases
from rlpipe.pipelines.config.run import settings_of
from rlpipe.pipelines.config.start import find_start
from rlpipe.pipelines.runs.loggers.loggers import DEFAULT, check_loggers
from rlpipe.pipelines.runs.new_folder import default_folder
from rlpipe.pipelines.trained_run import TrainedRun
from rlpipe.pipelines.training.progress_bar import shown as shown_progress

if TYPE_CHECKING:
    from rlpipe.pipelines.pipeline import Pipeline
    from rlpipe.pipelines.progress import Evaluation, Listener
    from rlpipe.pipelines.runs.run import Run
    from rlpipe.pipelines.session import Display, Session
    from rlpipe.pipelines.stopping import StoppingRule
    from rlpipe.pipelines.training.listeners import Moment
    from rlpipe.pipelines.training.result import Result


@overload
def train(
    what: str | Path,
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
) -> TrainedRun: ...


@overload
def train(
    what: Pipeline,
    run: Run | None = None,
    *,
    evaluate: Callable[[], Evaluation] | None = None,
    eval_every: int | None = None,
    checkpoint_every: int | None = None,
    stopping: StoppingRule | None = None,
    log_every: int = 1,
    progress: Listener | bool | None = True,
    listeners: Sequence[Callable[[Moment], object]] = (),
) -> Result: ...


def train(what: str | Path | Pipeline, run: Run | None = None, **options: Any) -> TrainedRun | Result:
    """Train with a recipe, as `rlpipe train` does: `train("ppo", env_id="LunarLander-v3", seed=3)`.

    Or with a pipeline of your own: `train(pipeline, run, ...)`, see `rlpipe.pipelines.training.loop.train`.

    Runs in several threads wait for one another, because whether policies explore is one setting of the process.
    During training, the global generators of PyTorch, NumPy and Python are seeded with the run's seed, and PyTorch uses
    the recipe's number of threads; afterwards all are as before.

    Args:
        what: name of the recipe; or an algorithm of your own, as `rlpipe train` takes it: `my_algorithm.py`,
            `module:name`; or a file of options, see `rlpipe train --config`; or a pipeline.
        run: only with a pipeline, the folder to write into.
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
        The run: its `folder`, the `evaluation` of the greedy policy at its end, its `agent`, and the `summary` that
        `rlpipe train --json` prints.

    Raises:
        ConfigError: there is no such recipe or option, a value is not allowed, or the folder exists.
        CheckpointError: the run to start from or to resume is none, or its checkpoint does not fit.
        TrainingError: training failed; says where and why.
        InterruptedRunError: by Ctrl-C or SIGTERM; says how to resume the run.
    """
    if isinstance(what, (str, Path)):
        if run is not None:
            raise ConfigError(f"train({str(what)!r}, ...) takes its options by name, got {shown(run)}")
        given = dict(options)
        beside = _Beside(**{name: options.pop(name) for name in _BESIDE if name in options})
        return TrainedRun.of(_run(what, beside, options), given)
    # what is refused above needs no PyTorch
    from rlpipe.pipelines.pipeline import Pipeline  # noqa: PLC0415
    from rlpipe.pipelines.training import loop  # noqa: PLC0415

    if not isinstance(what, Pipeline):
        raise ConfigError(f"train was given {shown(what)}; expected the name of a recipe, a file, or a Pipeline")
    return loop.train(what, run, **options)


def run_recipe(name: str | Path, **options: Any) -> dict[str, Any]:
    """As `train`; returns only the summary that `rlpipe train --json` prints."""
    return dict(train(name, **options).summary)


@dataclass(frozen=True)
class _Beside:
    """What `train` takes beside the options of a recipe; see there."""

    env: Any = None
    folder: Path | str | None = None
    start_from: Path | str | None = None
    take: Sequence[str] = ()
    progress: Listener | bool | None = True
    loggers: Sequence[str] | str | None = DEFAULT
    wrappers: Sequence[Any] | None = None
    listeners: Sequence[Callable[[Moment], object]] = ()
    resume: bool = False

    def __post_init__(self) -> None:
        if not (self.progress is None or isinstance(self.progress, bool) or callable(self.progress)):
            raise ConfigError(f"progress is {self.progress!r}; expected a function of one argument, True or False")
        if self.resume and self.start_from is not None:
            raise ConfigError("resume is True, and start_from is given, which only a new run has; leave one out")


_BESIDE = [field.name for field in dataclasses.fields(_Beside)]


def _run(what: str | Path, beside: _Beside, options: dict[str, Any]) -> dict[str, Any]:
    """Train, or continue; returns the summary."""
    options = with_aliases(options, env_id=beside.env, wrapper=beside.wrappers)
    recipe, config = _recipe_and_config(what, options)
    start = find_start(beside.start_from, beside.take, config, recipe=recipe.name, algorithm=recipe.algorithm)
    with quick_imports():
        from rlpipe.pipelines.session import Session, continue_run  # noqa: PLC0415
        from rlpipe.pipelines.training.listeners import listener_names  # noqa: PLC0415

    named = [beside.loggers] if isinstance(beside.loggers, str) else list(beside.loggers or ())
    listener_names(beside.listeners)
    session = Session(
        recipe,
        config,
        default_folder(recipe.name, config.seed) if beside.folder is None else Path(beside.folder),
        numbered=beside.folder is None,
        start_from=None if start is None else start.path,
        display=_display(beside, recipe, config),
        loggers=check_loggers(named),
        listeners=tuple(beside.listeners),
    )
    return continue_run(*_resumed(session, beside, list(options))) if beside.resume else session.run(start)


def _recipe_and_config(what: str | Path, options: Mapping[str, Any]) -> tuple[Recipe, Any]:
    if Path(what).suffix.lower() in SUFFIXES:
        recipe, config = from_file(Path(what), None)
        return recipe, with_options(recipe, options, recipe.name, _BESIDE, config)
    recipe = find_recipe(str(what))
    return recipe, with_options(recipe, options, str(what), _BESIDE)


def _resumed(session: Session, beside: _Beside, given: Sequence[str]) -> tuple[Session, Any]:
    """The session that continues the run in `folder`, and the config that the run has had.

    Args:
        session: as it would begin the run.
        beside: with the folder.
        given: names of the options that must be those of the run.
    """
    from rlpipe.pipelines.build import resumed  # noqa: PLC0415

    described = resumed.read_resumed(beside.folder, session.recipe.algorithm, session.config)
    resumed.check_listeners(described, beside.listeners)
    before, config = resumed.configs_of(described, session.config, given)
    recipe = dataclasses.replace(session.recipe, name=described["recipe"])
    continued = dataclasses.replace(
        session,
        recipe=recipe,
        config=config,
        resume=True,
        start_from=described.get("start_from"),
        display=_display(beside, recipe, config),
        loggers=resumed.loggers_of(described) if beside.loggers is DEFAULT else session.loggers,
    )
    return continued, before


def _display(beside: _Beside, recipe: Recipe, config: Any) -> Display:
    return lambda *_: shown_progress(beside.progress, recipe.name, settings_of(config).total_frames)
