"""The run folder: everything that a training run writes. `folder.py` reads it again."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlpipe.errors import CheckpointError, ConfigError, TrainingError, exists_already
from rlpipe.pipelines.checkpoints.checkpoint import (
    check_identity,
    check_lengths,
    identity,
    load_checkpoint,
    read_manifest,
    read_metadata,
    save_checkpoint,
)
from rlpipe.pipelines.checkpoints.files import DAMAGE, read_plain, replace_synced, sync
from rlpipe.pipelines.checkpoints.names import FOLDER, checkpoint_path, checkpoints, newest_checkpoint
from rlpipe.pipelines.child_processes import check_main_guard
from rlpipe.pipelines.progress import Evaluation
from rlpipe.pipelines.runs import layout
from rlpipe.pipelines.runs.best import keep_best, remove_checkpoint
from rlpipe.pipelines.runs.curve import WINDOW, draw_curve
from rlpipe.pipelines.runs.journal import Journal
from rlpipe.pipelines.runs.lock import lock
from rlpipe.pipelines.runs.loggers.base import Logged
from rlpipe.pipelines.runs.loggers.loggers import DEFAULT, Kind, Loggers, batch_scalars
from rlpipe.pipelines.runs.origin import continued, describe_program, find_built
from rlpipe.pipelines.runs.read import check_plain, free_name
from rlpipe.pipelines.runs.versions import versions

_LOG = logging.getLogger("rlpipe")
KEPT = 2
"""The newest checkpoints that are kept, beside the agent of the best evaluation."""


class Run:
    """A run folder, open for writing by one process.

    `config.json`, `versions.json`, `metrics.jsonl` (a line a batch, or as `log_every` says), `evaluations.jsonl` (raw
    returns and lengths), `checkpoints/`, `best.json` (which of them is the best agent), what loggers keep in it,
    `resumes.jsonl` if it was continued, and at the end `curve.png`.

    It closes at the end of a `with` block. A run of one's own, `Run(folder, "c51", settings={...})`, has settings in
    place of a recipe's algorithm and config; `rlpipe table` shows it, and the program that trained it resumes it.

    Args:
        folder: to make, or to continue.
        recipe: name of the recipe, or of an algorithm of one's own.
        algorithm: name of the module in `rlpipe.pipelines` that builds it; by default `recipe`.
        config: what it is built from, a dataclass.
        settings: of a run of one's own: JSON values by name, `env_id` and `seed` among them. All but `total_frames` are
            part of what the run is, and must be the same when it is continued.
        start_from: what the run begins with, if not with what its config makes; its first checkpoint then holds that.
        start_digest: of the checkpoint that this is.
        custom: whether a program of the user's trains it; its source and arguments are then part of what the run is.
        environments: how a checkpoint keeps the environments, `captured` or `synchronised`.
        loggers: where metrics go beside the journals.
        resume: continue what is there; `restore` then brings it back to its newest checkpoint.
        claimed: the folder was made already, for this run, and is empty.

    Raises:
        ConfigError: the folder exists already, or cannot be made; or another process is writing it; or the settings
            lack something; or a logger cannot be opened, and then there is no folder.
        CheckpointError: with `resume`, the folder holds links.
    """

    def __init__(
        self,
        folder: Path | str,
        recipe: str,
        algorithm: str | None = None,
        config: Any = None,
        *,
        settings: Mapping[str, Any] | None = None,
        start_from: str | None = None,
        start_digest: str | None = None,
        custom: bool = True,
        environments: str | None = None,
        loggers: Sequence[Kind] = DEFAULT,
        resume: bool = False,
        claimed: bool = False,
    ) -> None:
        check_main_guard()
        self.folder, self._resumed, algorithm = (folder := Path(folder)), resume, algorithm or recipe
        self._config = check_settings(settings) if config is None else dataclasses.asdict(config)
        self._window = getattr(config, "curve_window", WINDOW)
        self._identity = identity(algorithm, self._config)
        if resume:
            check_plain(folder)
        else:
            self._make_folder(claimed=claimed)
        described = {"recipe": recipe, "algorithm": algorithm, "config": self._config}
        self._described = {
            **described,
            "start_from": start_from,
            "start_digest": start_digest,
            "program": describe_program(folder) if custom else None,
            "environments": environments,
            "loggers": list(loggers),
        }
        self._kinds, self._finished = tuple(loggers), False
        self._loggers: Loggers | None = None
        with contextlib.ExitStack() as opened, self._naming_failures():
            opened.enter_context(lock(folder))
            if not resume:
                self._write_json(layout.CONFIG, self._described)
                self._write_json(layout.VERSIONS, versions())
            self._metrics = opened.enter_context(contextlib.closing(Journal(folder / layout.METRICS)))
            self._evaluations = opened.enter_context(contextlib.closing(Journal(folder / layout.EVALUATIONS)))
            sync(folder)
            sync(folder.parent)
            self._opened = opened.pop_all()
        if not resume:
            try:
                self._open_loggers()
            except BaseException:
                self.close()
                shutil.rmtree(folder, ignore_errors=True)
                raise

    def log_batch(self, frames: int, scalars: Mapping[str, float], returns: list[float], lengths: list[int]) -> None:
        """Write one line of metrics: scalars, and the episodes that ended in the batch, in their order."""
        line = {"frames": frames, **scalars, "returns": returns, "lengths": lengths}
        with self._naming_failures():
            self._metrics.append(line)
        self._log(batch_scalars(scalars, returns, lengths), frames)

    def log_evaluation(self, frames: int, evaluation: Evaluation, *, seconds: float, final: bool = False) -> None:
        """Write every episode of an evaluation after so many training seconds; `final` marks the one after training."""
        line = {
            "frames": frames,
            "seconds": seconds,
            "final": final,
            "returns": evaluation.returns,
            "lengths": evaluation.lengths,
            **({"successes": evaluation.successes} if evaluation.successes else {}),
        }
        with self._naming_failures():
            self._evaluations.append(line)
        kind, length = "final_" * final, sum(evaluation.lengths) / len(evaluation.lengths)
        scalars = {f"eval/{kind}return": evaluation.mean, f"eval/{kind}length": length}
        if (rate := evaluation.success_rate) is not None:
            scalars[f"eval/{kind}success_rate"] = rate
        self._log(scalars, frames)
        self._finished = self._finished or final

    def checkpoint(self, frames: int, state: Mapping[str, Any], *, score: float | None = None) -> Path:
        """Write a checkpoint named after the frames trained so far, unless there is one already.

        The two newest ones stay; others are removed.

        Args:
            frames: trained so far.
            state: objects by name.
            score: of an evaluation at this frame, for `keep_best`.

        Raises:
            TrainingError: it cannot be written; names the last good one.
        """
        path = checkpoint_path(self.folder, frames)
        if not path.exists():
            with self._naming_failures():
                lengths = {"metrics": self._metrics.sync(), "evaluations": self._evaluations.sync()}
                save_checkpoint(path, state, {"frames": frames, "lengths": lengths, "run": self._identity})
                self._remove_old()
        if score is not None:
            self.keep_best(frames, state, score)
        return path

    def keep_best(self, frames: int, state: Mapping[str, Any], score: float) -> None:
        """Keep an agent to load, `RUN@best`, if its score is better than every one before; of equals the first stays.

        It is a checkpoint of the modules in `state` alone, and goes when a better one has been written. It is kept
        beside those that a run is resumed from, however often these are written.

        Args:
            frames: trained so far.
            state: objects by name, `policy` among them.
            score: what to compare it by, such as an evaluation's mean return.

        Raises:
            TrainingError: it cannot be written; names the last good one.
        """
        with self._naming_failures():
            keep_best(self.folder, frames, state, score, self._identity)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Bring a run that was opened again back to its newest complete checkpoint; a new one is left as it is.

        What was logged later is cut off. Without any checkpoint, the run begins anew. One that is damaged is renamed,
        and the next is taken.

        Raises:
            CheckpointError: there are checkpoints, and none fits; nothing was changed then.
        """
        if not self._resumed:
            return
        found = checkpoints(self.folder)
        if not found and self._described["start_from"] is not None:
            began = f"run {self.folder} began with what {self._described['start_from']} had learned"
            raise CheckpointError(f"{began}, which was not saved yet; begin it anew with --start-from")
        failures: list[tuple[Path, CheckpointError]] = []
        metadata: dict[str, Any] = {"frames": 0, "lengths": {"metrics": 0, "evaluations": 0}}
        for path in found:
            try:
                metadata = self._load(path, state)
                break
            except CheckpointError as error:
                failures.append((path, error))
        if found and len(failures) == len(found):
            raise failures[0][1]
        for path, failure in failures:
            path.rename(free_name(path.with_name(f"{path.name}.damaged")))
            _LOG.warning("rlpipe: %s; going on from an older one", failure)
        self._metrics.cut(metadata["lengths"]["metrics"])
        self._evaluations.cut(metadata["lengths"]["evaluations"])
        for left in (self.folder / FOLDER).glob(".*"):
            shutil.rmtree(left, ignore_errors=True)
        self._described |= self._continued(metadata["frames"])
        self._write_json(layout.CONFIG, self._described)
        self._open_loggers(metadata["frames"])
        self._note_resume(metadata["frames"])

    def note_built(self, parts: Mapping[str, Any], collector: Any) -> None:
        """Write down what a custom run that has learned nothing yet is built with, see `find_built`."""
        if self._described["program"] is not None:
            self._described["built"] = find_built(parts, collector)
            with self._naming_failures():
                self._write_json(layout.CONFIG, self._described)

    def _continued(self, frames: int) -> dict[str, Any]:
        """What to keep of the `config.json` that there is; nothing if it is damaged, since nothing depends on it."""
        try:
            before = json.loads(read_plain(self.folder / layout.CONFIG, layout.LARGEST_JSON))
            return continued(before, self._described, frames)
        except DAMAGE:
            return {}

    def _load(self, path: Path, state: Mapping[str, Any]) -> dict[str, Any]:
        """Load a checkpoint that is this run's, and fits its journals; returns its metadata."""
        check_identity(path, self._identity)
        check_lengths(path)
        if more := sorted(set(read_manifest(path)["components"]) - set(state)):
            raise CheckpointError(f"checkpoint {path} has a component {more[0]!r}, which the pipeline's state lacks")
        metadata = load_checkpoint(path, state)
        self._metrics.check(metadata["lengths"]["metrics"])
        self._evaluations.check(metadata["lengths"]["evaluations"])
        return metadata

    def last_checkpoint(self) -> Path | None:
        """The newest checkpoint that this run has written."""
        return newest_checkpoint(self.folder)

    def draw(self) -> None:
        """Draw `curve.png`."""
        with self._naming_failures():
            draw_curve(self.folder, self._window)

    def close(self) -> None:
        """Close the files."""
        if self._loggers is not None:
            self._loggers.close(finished=self._finished)
        # what could not be written has been told of already
        with contextlib.suppress(OSError):
            self._opened.close()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def _open_loggers(self, resumed_at: int | None = None) -> None:
        told = Logged(self.folder, str(self._described["recipe"]), self._config, resumed_at)
        with self._naming_failures():
            self._loggers = Loggers(self._kinds, told)

    def _log(self, scalars: Mapping[str, float], frames: int) -> None:
        if self._loggers is None:
            raise ConfigError(f"run {self.folder} was opened to continue it; call restore first")
        self._loggers.log(scalars, frames)

    def _make_folder(self, *, claimed: bool) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=claimed)
            (self.folder / FOLDER).mkdir()
        except FileExistsError as error:
            raise exists_already("run-dir", self.folder) from error
        except OSError as error:
            raise ConfigError(f"run-dir {self.folder} cannot be made: {error.strerror}") from error

    def _write_json(self, name: str, value: Mapping[str, Any]) -> None:
        replace_synced(self.folder / name, json.dumps(value, indent=2) + "\n")

    def _remove_old(self) -> None:
        for path in checkpoints(self.folder)[KEPT:]:
            # older versions gave one to each that might be the best, and kept it in this way
            if read_metadata(path).get("score") is None:
                remove_checkpoint(path)

    def _note_resume(self, frames: int) -> None:
        now = versions()
        began = self._began_with() or now
        with contextlib.closing(Journal(self.folder / layout.RESUMES)) as resumes:
            resumes.append({"frames": frames, "time": datetime.datetime.now().isoformat(), "versions": now})
        changed = [key for key in now if began.get(key) != now[key]]
        if changed:
            _LOG.warning(
                "rlpipe: %s changed since the run began, see resumes.jsonl: it goes on, but may differ from what it "
                "would have been",
                " and ".join(changed),
            )

    def _began_with(self) -> dict[str, Any]:
        """What `versions.json` says; nothing if it is damaged, since nothing depends on it."""
        try:
            return dict(json.loads(read_plain(self.folder / layout.VERSIONS, layout.LARGEST_JSON)))
        except DAMAGE:
            return {}

    @contextlib.contextmanager
    def _naming_failures(self) -> Any:
        """Turn what goes wrong in writing into one error that also names the last good checkpoint."""
        try:
            yield
        except OSError as error:
            raise TrainingError(f"run {self.folder} cannot be written: {error.strerror}; {self._kept()}") from error
        except TrainingError as error:
            raise TrainingError(f"{error}; {self._kept()}") from error

    def _kept(self) -> str:
        if not self.folder.is_dir():
            return "the run folder has gone"
        last = self.last_checkpoint()
        return f"the last good checkpoint is {last}" if last else "there is no checkpoint yet"


def check_settings(settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """The settings of a run of one's own, in JSON form.

    Raises:
        ConfigError: there are none, `env_id` or `seed` is missing, or a value is none that JSON knows.
    """
    values = dict(settings or {})
    for name, kind in (("env_id", str), ("seed", int)):
        if type(values.get(name)) is not kind:
            raise ConfigError(
                f"a run of one's own needs settings with env_id (text) and seed (a whole number); {name} is "
                f"{values.get(name)!r}"
            )
    try:
        plain: dict[str, Any] = json.loads(json.dumps(values, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"settings must be JSON values (numbers, text, lists, None): {error}") from error
    return plain
