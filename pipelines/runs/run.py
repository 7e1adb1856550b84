"""The run folder that a training run writes. `read.py` reads it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlpipe.errors import ConfigError
from rlpipe.pipelines.checkpoints.checkpoint import identity, save_checkpoint
from rlpipe.pipelines.checkpoints.names import checkpoint_path, newest_checkpoint
from rlpipe.pipelines.child_processes import check_main_guard
from rlpipe.pipelines.progress import Evaluation
from rlpipe.pipelines.runs import layout
from rlpipe.pipelines.runs.best import keep_best, remove_old
from rlpipe.pipelines.runs.curve import draw_curve
from rlpipe.pipelines.runs.layout import WINDOW
from rlpipe.pipelines.runs.loggers.base import Logged
from rlpipe.pipelines.runs.loggers.loggers import DEFAULT, Kind, Loggers, batch_scalars, evaluation_scalars
from rlpipe.pipelines.runs.new_folder import make_run_folder
from rlpipe.pipelines.runs.origin import describe_program, find_built
from rlpipe.pipelines.runs.read import check_plain
from rlpipe.pipelines.runs.restore import continued_description, load_newest, note_resume
from rlpipe.pipelines.runs.run_files import RunFiles


class Run:
    """A run folder, open for writing by one process; a context manager that closes it.

    A custom run, `Run(folder, "c51", settings={...})`, has settings in place of a recipe's Config; `rlpipe table` shows
    it, and the program that trained it resumes it. `layout.py` lists the files in the folder.

    Args:
        folder: to make, or to resume.
        recipe: name of the recipe, or of a custom algorithm.
        settings: of a custom run, JSON values with `env_id` and `seed` among them; all but `total_frames` must be the
            same when the run is resumed.
        built_from: for the run of a recipe, in place of settings.
        loggers: where metrics go besides the journals.
        resume: continue the run in the folder; `restore` then loads its newest checkpoint.

    Raises:
        ConfigError: the folder exists, cannot be made, or is being written by another process; or the settings lack
            something; or a logger cannot be opened, and then no folder is left.
        CheckpointError: with `resume`, the folder holds links.
    """

    def __init__(
        self,
        folder: Path | str,
        recipe: str,
        *,
        settings: Mapping[str, Any] | None = None,
        built_from: BuiltFrom | None = None,
        loggers: Sequence[Kind] = DEFAULT,
        resume: bool = False,
    ) -> None:
        check_main_guard()
        self.folder, self._resumed = Path(folder), resume
        self._window = getattr(built_from and built_from.config, "curve_window", WINDOW)
        self._kinds, self._finished = tuple(loggers), False
        self._loggers: Loggers | None = None
        self._described = _describe(self.folder, recipe, settings, built_from, self._kinds)
        self.start_from: str | None = self._described["start_from"]
        self._identity = identity(self._described["algorithm"], self._described["config"])
        if resume:
            check_plain(self.folder)
        else:
            make_run_folder(self.folder, claimed=built_from is not None and built_from.claimed)
        self._files = RunFiles(self.folder, None if resume else self._described)
        if not resume:
            try:
                self._open_loggers()
            except BaseException:
                self.close()
                shutil.rmtree(self.folder, ignore_errors=True)
                raise

    @property
    def name(self) -> str:
        """Of the recipe, or of the custom algorithm."""
        return str(self._described["recipe"])

    def log_batch(self, frames: int, scalars: Mapping[str, float], returns: list[float], lengths: list[int]) -> None:
        """Write one line of metrics: scalars, and the episodes that ended in the batch, in their order."""
        row = {"frames": frames, **scalars, "returns": returns, "lengths": lengths}
        self._files.append("metrics", row)
        self._log(batch_scalars(scalars, returns, lengths), frames)

    def log_evaluation(self, frames: int, evaluation: Evaluation, *, seconds: float, final: bool = False) -> None:
        """Write every episode of an evaluation, and the seconds of training so far; `final`: after training."""
        row: dict[str, Any] = {"frames": frames, "seconds": seconds, "final": final}
        row |= {"returns": evaluation.returns, "lengths": evaluation.lengths}
        if evaluation.successes:
            row["successes"] = evaluation.successes
        self._files.append("evaluations", row)
        self._log(evaluation_scalars(evaluation, final=final), frames)
        self._finished = self._finished or final

    def checkpoint(self, frames: int, state: Mapping[str, Any], *, score: float | None = None) -> Path:
        """Write a checkpoint named after the frames trained so far, unless it exists; the two newest are kept.

        With the score of an evaluation at this frame, keep the agent as well, see `keep_best`.

        Raises:
            TrainingError: it cannot be written; names the last good one.
        """
        path = checkpoint_path(self.folder, frames)
        if not path.exists():
            with self._files.writing():
                lengths = {name: journal.sync() for name, journal in self._files.journals.items()}
                save_checkpoint(path, state, {"frames": frames, "lengths": lengths, "run": self._identity})
                remove_old(self.folder)
        if score is not None:
            self.keep_best(frames, state, score)
        return path

    def last_checkpoint(self) -> Path | None:
        """The newest checkpoint that this run has written."""
        return newest_checkpoint(self.folder)

    def keep_best(self, frames: int, state: Mapping[str, Any], score: float) -> None:
        """Keep an agent to load, `RUN@best`, if its score is better than all before; of equal ones, the first stays.

        It is a checkpoint of the modules in `state`, and is removed when a better one has been written. A score is, for
        example, an evaluation's mean return.

        Raises:
            TrainingError: as for `checkpoint`.
        """
        with self._files.writing():
            keep_best(self.folder, frames, state, score, self._identity)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Load the newest complete checkpoint into `state`, and remove what was logged later.

        Does nothing for a new run; a run without any checkpoint starts again.

        Raises:
            CheckpointError: there are checkpoints, and none fits; nothing was changed.
        """
        if not self._resumed:
            return
        frames = load_newest(self._files, self._described, state)
        self._described = continued_description(self.folder, self._described, frames)
        self._files.write(layout.CONFIG, self._described)
        self._open_loggers(frames)
        note_resume(self.folder, frames)

    def note_built(self, parts: Mapping[str, Any], collector: Any) -> None:
        """Write down what a custom run is built with before it learns, see `find_built`."""
        if self._described["program"] is not None:
            self._described["built"] = find_built(parts, collector)
            self._files.write(layout.CONFIG, self._described)

    def draw(self) -> None:
        """Draw `curve.png`."""
        with self._files.writing():
            draw_curve(self.folder, self._window)

    def close(self) -> None:
        """Close the files."""
        if self._loggers is not None:
            self._loggers.close(finished=self._finished)
        self._files.close()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def _open_loggers(self, resumed_at: int | None = None) -> None:
        logged = Logged(self.folder, self._described["recipe"], self._described["config"], resumed_at)
        with self._files.writing():
            self._loggers = Loggers(self._kinds, logged)

    def _log(self, scalars: Mapping[str, float], frames: int) -> None:
        if self._loggers is None:
            raise ConfigError(f"run {self.folder} was opened to resume it; call restore first")
        self._loggers.log(scalars, frames)


@dataclasses.dataclass(frozen=True)
class BuiltFrom:
    """What the run of a recipe is built from.

    Args:
        algorithm: the module in `rlpipe.pipelines.algorithms` that builds it, or the name of a user's.
        source: where a user's algorithm is, and a digest of it.
        environments: how a checkpoint keeps the environments, `captured` or `synchronised`.
        start_from: the run or checkpoint whose weights the run begins with, as the user named it.
        start_digest: of that checkpoint.
        take: the parts taken of it; empty for all.
        claimed: the run's folder was made already, and is empty.
        listeners: names of those that were given from Python.
    """

    algorithm: str
    config: Any
    source: Mapping[str, Any] | None = None
    environments: str | None = None
    start_from: str | None = None
    start_digest: str | None = None
    take: tuple[str, ...] = ()
    claimed: bool = False
    listeners: tuple[str, ...] = ()


def _describe(
    folder: Path, recipe: str, settings: Mapping[str, Any] | None, built_from: BuiltFrom | None, loggers: Sequence[str]
) -> dict[str, Any]:
    """The content of a run's `config.json`; without `built_from` it is a custom run."""
    source = built_from or BuiltFrom(recipe, None)
    return {
        "recipe": recipe,
        "algorithm": source.algorithm,
        "config": _check_settings(settings) if built_from is None else dataclasses.asdict(source.config),
        "start_from": source.start_from,
        "start_digest": source.start_digest,
        **({"take": list(source.take)} if source.take else {}),
        "source": source.source,
        "program": describe_program(folder) if built_from is None else None,
        "environments": source.environments,
        "loggers": list(loggers),
        "listeners": list(source.listeners),
    }


def _check_settings(settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """The settings of a custom run, in JSON form."""
    values = dict(settings or {})
    for name, kind in (("env_id", str), ("seed", int)):
        if type(values.get(name)) is not kind:
            raise ConfigError(
                f"a custom run needs settings with env_id (text) and seed (a whole number); {name} is "
                f"{values.get(name)!r}"
            )
    try:
        return dict(json.loads(json.dumps(values, allow_nan=False)))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"settings must be JSON values (numbers, text, lists, None): {error}") from error
