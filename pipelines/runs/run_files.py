"""The files of a run that one process holds open: its lock, its journals and its descriptions."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rlpipe.errors import PolicyDivergedError, TrainingError
from rlpipe.pipelines.checkpoints.durable_files import replace_synced, sync
from rlpipe.pipelines.checkpoints.names import newest_checkpoint
from rlpipe.pipelines.runs import layout
from rlpipe.pipelines.runs.journal import Journal
from rlpipe.pipelines.runs.lock import lock
from rlpipe.pipelines.runs.versions import versions


class RunFiles:
    """A run folder, locked and open for writing; of a new run `described` is written to `config.json`.

    Raises:
        ConfigError: another process holds the lock.
        CheckpointError: a journal is a link.
        TrainingError: the folder cannot be written.
    """

    def __init__(self, folder: Path, described: Mapping[str, Any] | None) -> None:
        self.folder = folder
        with contextlib.ExitStack() as opened, self.writing():
            opened.enter_context(lock(folder))
            if described is not None:
                self.write(layout.CONFIG, described)
                self.write(layout.VERSIONS, versions(described.get("config")))
            self.journals = {
                name: opened.enter_context(contextlib.closing(Journal(folder / file)))
                for name, file in (("metrics", layout.METRICS), ("evaluations", layout.EVALUATIONS))
            }
            sync(folder)
            sync(folder.parent)
            self._opened = opened.pop_all()

    def write(self, name: str, value: Mapping[str, Any]) -> None:
        """Write a `.json` file, in one step."""
        with self.writing():
            replace_synced(self.folder / name, json.dumps(value, indent=2) + "\n")

    def append(self, journal: str, line: Mapping[str, Any]) -> None:
        """Write a line of a journal, `metrics` or `evaluations`."""
        with self.writing():
            self.journals[journal].append(line)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Turn an OSError into a TrainingError, and name the last good checkpoint in it."""
        with naming_checkpoint(self.folder):
            try:
                yield
            except OSError as error:
                raise TrainingError(f"run {self.folder} cannot be written: {error.strerror}") from error

    def close(self) -> None:
        """Close the journals and release the lock."""
        # what could not be written was reported before
        with contextlib.suppress(OSError):
            self._opened.close()


@contextlib.contextmanager
def naming_checkpoint(folder: Path | None) -> Iterator[None]:
    """Name the last good checkpoint of a run in each TrainingError; without a folder, name none."""
    try:
        yield
    except PolicyDivergedError:
        raise
    except TrainingError as error:
        if folder is not None and (last := newest_checkpoint(folder)):
            error.checkpoint = f"the last good checkpoint is {last}"
        elif folder is not None:
            error.checkpoint = "there is no checkpoint yet" if folder.is_dir() else "the run folder no longer exists"
        raise
