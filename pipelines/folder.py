"""Reading a run folder. Imports nothing heavy, so that a mistyped path is refused at once."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from rlpipe.errors import CheckpointError, ConfigError
from rlpipe.pipelines.files import DAMAGE, read_plain
from rlpipe.pipelines.importing import import_module

LARGEST_CONFIG = 1_000_000
"""Bytes of the largest `config.json` of a run that is read."""
LARGEST_LINES = 500_000_000
"""Bytes of the largest `.jsonl` file of a run that is read."""
_OLD_LOGS = "wandb/*/logs/*.log"
"""Links that W&B makes; to continue a run makes another folder beside theirs."""
_CHECKPOINT = re.compile(r"frames-(\d+)")


def read_run(path: Path, trusted: Collection[str] = ()) -> tuple[dict[str, Any], Path]:
    """Read what a run was, and which of its checkpoints is meant.

    Args:
        path: a run folder, for its newest checkpoint, or a checkpoint in one.
        trusted: modules that its environment may come from; they are imported.

    Returns:
        The content of `config.json`, and the checkpoint's path.

    Raises:
        CheckpointError: the path is neither.
    """
    try:
        path = path.resolve()
    except RuntimeError as error:  # of Python up to 3.12
        raise CheckpointError(f"{path} is no run, but a link in a circle") from error
    folder = path if (path / "config.json").is_file() else path.parent.parent
    described = read_description(folder, trusted, path)
    checkpoint = path if path != folder else newest_checkpoint(folder)
    if checkpoint is None:
        raise CheckpointError(f"run {path} has no checkpoint yet")
    return described, checkpoint


def read_description(folder: Path, trusted: Collection[str] = (), asked: Path | None = None) -> dict[str, Any]:
    """The content of a run folder's `config.json`.

    Args:
        folder: of the run.
        trusted: modules that its environment may come from; they are imported.
        asked: the path that the user gave, for messages.

    Raises:
        ConfigError: a trusted module cannot be imported.
        CheckpointError: it is no run folder, or its environment is one of a module (`module:Env-v0`) that is neither
            trusted nor imported already.
    """
    file, path = folder / "config.json", asked or folder
    if not file.is_file():
        raise CheckpointError(f"{path} is no run: it has no config.json, and is no checkpoint in a run folder")
    try:
        described = json.loads(read_plain(file, LARGEST_CONFIG))
        known = isinstance(described["config"], dict) and all(
            isinstance(described[key], str) and described[key].isprintable() for key in ("recipe", "algorithm")
        )
    except DAMAGE:
        known = False
    if not known:
        raise CheckpointError(f"{path} is no run: {file} is not one that rlpipe wrote")
    for key in ("env_id", "eval_env_id"):
        _check_module(described["config"].get(key), trusted, path)
    for name in filter(None, trusted):
        import_module(name, "trust-module")
    return dict(described)


def module_of(env_id: Any) -> str:
    """The module that an environment's id names (`module:Env-v0`), or nothing."""
    return str(env_id).rpartition(":")[0]


def _check_module(env_id: Any, trusted: Collection[str], path: Path) -> None:
    """Gymnasium imports the module in front of a colon, and whoever wrote the file may have chosen it."""
    module = module_of(env_id)
    if module and module not in {*trusted, *sys.modules}:
        raise CheckpointError(
            f"run {path} is one of {env_id!r}, and to load it is to run the code of the module {module!r}; "
            f"if you trust that, add --trust-module {module}"
        )


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a run folder, the newest first."""
    found = [path for path in (folder / "checkpoints").glob("frames-*") if _CHECKPOINT.fullmatch(path.name)]
    return sorted((path for path in found if path.is_dir()), key=frames_of, reverse=True)


def check_name(checkpoint: Path, frames: object) -> None:
    """Refuse a checkpoint that is not named after its frames: what is newest goes by names.

    Raises:
        CheckpointError: it has another name.
    """
    named = _CHECKPOINT.fullmatch(checkpoint.name)
    if named is None or type(frames) is not int or int(named[1]) != frames:
        raise CheckpointError(f"checkpoint {checkpoint} was renamed: it is one of frame {frames!r}")


def frames_of(checkpoint: Path) -> int:
    """The frames in a checkpoint's name."""
    return int(checkpoint.name.removeprefix("frames-"))


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the most frames in a run folder."""
    return next(iter(checkpoints(folder)), None)


def free_name(path: Path) -> Path:
    """The path, with a number behind it if it is taken already."""
    free, number = path, 1
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


def check_plain(folder: Path) -> None:
    """Refuse a run folder with links, pipes or devices in it: to continue a run writes to its files.

    Raises:
        CheckpointError: names the first.
    """
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() and path.match(_OLD_LOGS):
            continue
        if path.is_symlink():
            raise CheckpointError(
                f"{path} is a symbolic link, and a run that goes on would write where it points; put a copy there"
            )
        if not (path.is_file() or path.is_dir()):
            raise CheckpointError(f"{path} is neither a file nor a folder, and no part of a run")


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold a run folder for this process, until the end of the block or of the process.

    Raises:
        ConfigError: another process holds it.
    """
    try:
        import fcntl  # noqa: PLC0415 - there is none on Windows
    except ImportError:
        yield
        return
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"run {folder} is being written by another process; wait for it, or stop it") from error
        yield
    finally:
        os.close(handle)


def is_held(folder: Path) -> bool:
    """Whether another process holds a run folder; makes no file, and `False` where that cannot be known."""
    try:
        import fcntl  # noqa: PLC0415 - there is none on Windows

        handle = os.open(folder / "lock", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (ImportError, OSError):
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(handle)
    return False
