"""Bringing a run back to its newest checkpoint."""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlpipe.errors import CheckpointError
from rlpipe.pipelines.checkpoints.checkpoint import (
    check_identity,
    check_lengths,
    identity,
    load_checkpoint,
    read_manifest,
)
from rlpipe.pipelines.checkpoints.durable_files import DAMAGE, read_plain
from rlpipe.pipelines.checkpoints.names import FOLDER, checkpoints
from rlpipe.pipelines.runs import layout
from rlpipe.pipelines.runs.journal import Journal
from rlpipe.pipelines.runs.origin import continued
from rlpipe.pipelines.runs.read import free_name
from rlpipe.pipelines.runs.run_files import RunFiles
from rlpipe.pipelines.runs.versions import versions

_LOG = logging.getLogger("rlpipe")


def load_newest(files: RunFiles, described: Mapping[str, Any], state: Mapping[str, Any]) -> int:
    """Load a run's newest complete checkpoint, and remove what was written after it.

    Checkpoints that are damaged are renamed. If the run has none, it starts again at frame 0. Returns the frames.

    Raises:
        CheckpointError: no checkpoint fits, and nothing was changed; or the run began with the weights of another one,
            and had no checkpoint yet.
    """
    found = checkpoints(files.folder)
    if not found and described["start_from"] is not None:
        raise CheckpointError(
            f"run {files.folder} began with the weights of {described['start_from']}, which were not saved yet; "
            "start it again with --start-from"
        )
    failures: list[tuple[Path, CheckpointError]] = []
    metadata: dict[str, Any] = {"frames": 0, "lengths": {"metrics": 0, "evaluations": 0}}
    for path in found:
        try:
            metadata = _load(path, files, described, state)
            break
        except CheckpointError as error:
            failures.append((path, error))
    if found and len(failures) == len(found):
        raise failures[0][1]
    for path, failure in failures:
        path.rename(free_name(path.with_name(f"{path.name}.damaged")))
        _LOG.warning("rlpipe: %s; resuming from an older one", failure)
    for name, journal in files.journals.items():
        journal.cut(metadata["lengths"][name])
    for left in (files.folder / FOLDER).glob(".*"):
        shutil.rmtree(left, ignore_errors=True)
    return int(metadata["frames"])


def _load(path: Path, files: RunFiles, described: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, Any]:
    """Load a checkpoint that is this run's, and fits its journals; returns its metadata."""
    check_identity(path, identity(described["algorithm"], described["config"]))
    check_lengths(path)
    components = set(read_manifest(path)["components"])
    if ("listeners" in components) != ("listeners" in state):
        before, now = ("with", "none") if "listeners" in components else ("without", "some")
        raise CheckpointError(
            f"checkpoint {path} was written by a run {before} listeners, and there are {now} now; give the same ones "
            "to train: listeners=[...]"
        )
    if more := sorted(components - set(state)):
        raise CheckpointError(f"checkpoint {path} has a component {more[0]!r}, which the pipeline's state lacks")
    metadata = load_checkpoint(path, state)
    for name, journal in files.journals.items():
        journal.check(metadata["lengths"][name])
    return metadata


def continued_description(folder: Path, described: Mapping[str, Any], frames: int) -> dict[str, Any]:
    """The content of `config.json` of a run that is resumed, from that of a new run and the checkpoint's frames."""
    before = _read(folder / layout.CONFIG)
    try:
        return {**described, **continued(before, described, frames)}
    except DAMAGE:
        return dict(described)


def note_resume(folder: Path, frames: int) -> None:
    """Write a line of `resumes.jsonl`, and warn if the versions are others than at the start."""
    now = versions(_read(folder / layout.CONFIG).get("config"))
    began = _read(folder / layout.VERSIONS) or now
    with contextlib.closing(Journal(folder / layout.RESUMES)) as resumes:
        resumes.append({"frames": frames, "time": datetime.datetime.now().isoformat(), "versions": now})
    if changed := [key for key in now if began.get(key) != now[key]]:
        _LOG.warning(
            "rlpipe: %s changed since the run began, see resumes.jsonl: it continues, but its results may differ",
            " and ".join(changed),
        )


def _read(path: Path) -> dict[str, Any]:
    """The content of a `.json` file; empty if it is damaged, since nothing depends on it."""
    try:
        return dict(json.loads(read_plain(path, layout.LARGEST_JSON)))
    except DAMAGE:
        return {}
