"""Journals: files of JSON lines that survive a crash."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlpipe.errors import CheckpointError, TrainingError
from rlpipe.pipelines.checkpoints.durable_files import read_plain


def _is_row(row: Any) -> bool:
    return (
        isinstance(row, dict)
        and type(row.get("frames")) is int
        and isinstance(row.get("returns"), list)
        and all(type(each) in (int, float) for each in row["returns"])
    )


class Journal:
    """A file of JSON lines, written at its end; it is made if it is missing.

    Raises:
        CheckpointError: it is a symbolic link, or has a second name, whose file would change as well.
    """

    def __init__(self, path: Path) -> None:
        if path.is_symlink() or (path.exists() and path.stat().st_nlink > 1):
            raise CheckpointError(f"{path} is a link to another file, which would be written to; put a copy there")
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
        """Refuse the file unless its first `length` bytes are lines that rlpipe wrote.

        Raises:
            CheckpointError: there are fewer bytes, or other lines.
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
            raise CheckpointError(f"{self.path} is damaged: rlpipe did not write the lines that its checkpoint knows")

    def cut(self, length: int) -> None:
        """Remove what follows the first `length` bytes."""
        self._stream.truncate(length)

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def read_lines(path: Path, at_most: int | None = None) -> list[dict[str, Any]]:
    """The rows of a `.jsonl` file of at most `at_most` bytes."""
    return [json.loads(line) for line in read_plain(path, at_most).splitlines()]
