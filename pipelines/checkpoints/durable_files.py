"""Files and folders that survive a crash: complete and on the disk before they have their name."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from rlpipe.errors import exists_already

DAMAGE = (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
"""What reading a JSON file may raise if rlpipe did not write it."""


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of entries, is on the disk."""
    if os.name == "nt" and path.is_dir():
        # Windows cannot do it
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_plain(path: Path, at_most: int | None = None) -> str:
    """The text of a regular file; no link is followed, and no pipe waited for.

    Raises:
        OSError: it is missing, or a link, or cannot be read.
        ValueError: it is no regular file, is larger than `at_most` bytes, or is no text.
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


@contextlib.contextmanager
def durable_folder(path: Path) -> Iterator[Path]:
    """Make a folder under another name, and move it into place in one step at the end of the block.

    The block writes its files into the folder that it gets, each synced. If it raises, nothing of the folder is left.
    """
    stage = path.with_name(f".{path.name}.partial")
    shutil.rmtree(stage, ignore_errors=True)
    try:
        stage.mkdir()
        yield stage
        sync(stage)
        os.replace(stage, path)
        sync(path.parent)
    except Exception:
        shutil.rmtree(stage, ignore_errors=True)
        raise


def replace_synced(path: Path, text: str) -> None:
    """Write a file under another name, and move it into place in one step."""
    stage = path.with_name(f".{path.name}.partial")
    stage.unlink(missing_ok=True)
    write_synced(stage, text)
    os.replace(stage, path)
    sync(path.parent)


def publish(stage: Path, path: Path) -> None:
    """Give a complete file its name in the same folder, unless the name exists.

    Raises:
        ConfigError: the name exists; the stage is left where it is.
        OSError: the folder cannot be written.
    """
    try:
        try:
            # unlike a rename, a link never replaces a file that was made meanwhile
            os.link(stage, path)
        except FileExistsError:
            raise
        except OSError:  # a file system without links
            _reserve_and_move(stage, path)
        else:
            stage.unlink()
    except FileExistsError:
        raise exists_already("out", path) from None


def _reserve_and_move(stage: Path, path: Path) -> None:
    path.open("xb").close()
    try:
        os.replace(stage, path)
    except OSError:
        path.unlink(missing_ok=True)
        raise
