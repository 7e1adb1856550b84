"""Files that survive a crash: on the disk before they count, and never half of one."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlpipe.errors import CheckpointError, ConfigError, TrainingError

DAMAGE = (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
"""What it raises to read a file of JSON as what rlpipe would have written, where it holds anything else."""


def sync(path: Path) -> None:
    """Wait until a file, or the list of a folder's entries, is on the disk."""
    if os.name == "nt" and path.is_dir():
        # which Windows cannot be asked for
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_plain(path: Path, at_most: int | None = None) -> str:
    """The text of a regular file; follows no link, and waits for no pipe.

    Raises:
        OSError: it is missing, or a link, or cannot be read.
        ValueError: it is no regular file, has more than `at_most` bytes, or is no text.
    """
    with open(path, "rb", opener=_open_plain) as stream:
        found = os.fstat(stream.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("it is no regular file")
        if at_most is not None and found.st_size > at_most:
            raise ValueError(f"it has {found.st_size:,} bytes, allowed are {at_most:,}")
        return stream.read().decode("utf-8")


def _open_plain(path: str, flags: int) -> int:
    # Windows has neither
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))


def write_synced(path: Path, text: str) -> None:
    """Write a new file, and wait until it is on the disk."""
    with path.open("x", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def replace_synced(path: Path, text: str) -> None:
    """Write a file beside the one of this name, if any, and move it into place in one step."""
    stage = path.with_name(f".{path.name}.partial")
    stage.unlink(missing_ok=True)
    write_synced(stage, text)
    os.replace(stage, path)
    sync(path.parent)


def publish(stage: Path, path: Path) -> None:
    """Give a file that is whole its name, unless the name is taken.

    Args:
        stage: the file, in the same folder.
        path: its name.

    Raises:
        ConfigError: there is something of this name; the stage is left where it is.
        OSError: the folder cannot be written.
    """
    try:
        try:
            # unlike a rename, a link never replaces what has come in between
            os.link(stage, path)
        except FileExistsError:
            raise
        except OSError:  # a file system without links
            _reserve_and_move(stage, path)
        else:
            stage.unlink()
    except FileExistsError:
        raise ConfigError(f"out {path} exists already; nothing was overwritten, name a new one") from None


def _reserve_and_move(stage: Path, path: Path) -> None:
    path.open("xb").close()
    try:
        os.replace(stage, path)
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _is_row(row: Any) -> bool:
    return (
        isinstance(row, dict)
        and type(row.get("frames")) is int
        and isinstance(row.get("returns"), list)
        and all(type(each) in (int, float) for each in row["returns"])
    )


class Journal:
    """A file of JSON lines, written at its end.

    Args:
        path: the file, made if it is missing; never a link to one.

    Raises:
        CheckpointError: it is a symbolic link, or has a second name that would be changed with it.
    """

    def __init__(self, path: Path) -> None:
        if path.is_symlink() or (path.exists() and path.stat().st_nlink > 1):
            raise CheckpointError(f"{path} is a link to a file elsewhere, which would be written to; put a copy there")
        self.path = path
        self._stream = path.open("a+b")

    def append(self, line: Mapping[str, Any]) -> None:
        """Write a line.

        Raises:
            TrainingError: it cannot be written.
        """
        try:
            self._stream.write(json.dumps(line).encode() + b"\n")
            self._stream.flush()
        except OSError as error:
            raise TrainingError(f"{self.path} cannot be written: {error.strerror}") from error

    def sync(self) -> int:
        """Wait until every line is on the disk; returns the length in bytes.

        Raises:
            TrainingError: it cannot be written.
        """
        try:
            os.fsync(self._stream.fileno())
        except OSError as error:
            raise TrainingError(f"{self.path} cannot be written: {error.strerror}") from error
        return self._stream.seek(0, os.SEEK_END)

    def check(self, length: int) -> None:
        """Refuse the file unless so many bytes at its start are lines with what every line has.

        Raises:
            CheckpointError: there are fewer, or others.
        """
        found = self._stream.seek(0, os.SEEK_END)
        if found < length:
            raise CheckpointError(f"{self.path} has {found} bytes, its checkpoint knows {length}: lines are missing")
        self._stream.seek(0)
        *lines, rest = self._stream.read(length).split(b"\n")
        try:
            known = not rest and all(map(_is_row, map(json.loads, lines)))
        except (ValueError, RecursionError):
            known = False
        if not known:
            raise CheckpointError(f"{self.path} is damaged: what its checkpoint knows of it are no lines of rlpipe's")

    def cut(self, length: int) -> None:
        """Forget what was written after so many bytes."""
        self._stream.truncate(length)

    def close(self) -> None:
        """Close the file."""
        self._stream.close()
