"""The lock on a run folder, held by the process that writes it. Imports nothing heavy."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from rlpipe.errors import ConfigError
from rlpipe.pipelines.runs.layout import LOCK


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Lock a run folder until the end of the block or of the process.

    Raises:
        ConfigError: another process holds it.
    """
    try:
        import fcntl  # noqa: PLC0415 - Windows has none
    except ImportError:
        yield
        return
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"run {folder} is being written by another process; wait for it, or stop it") from error
        yield
    finally:
        os.close(handle)


def is_held(folder: Path) -> bool:
    """Whether another process holds the lock; makes no file, and returns `False` if it cannot be known."""
    try:
        import fcntl  # noqa: PLC0415 - Windows has none

        handle = os.open(folder / LOCK, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
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
