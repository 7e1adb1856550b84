"""New run folders: claimed by making them, so that no two runs ever have the same one."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator
from pathlib import Path

from rlpipe.errors import ConfigError, exists_already

_TRIES = 10


def default_folder(recipe: str, seed: int) -> Path:
    """`runs/<recipe>/<seed>-<time>`; it may be taken already, see `claimed`."""
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs", *recipe.split("/"), f"{seed}-{now}")


@contextlib.contextmanager
def claimed(folder: Path, *, numbered: bool = False) -> Iterator[Path]:
    """Make a new run folder; if it is still empty at the end of the block, it is removed again.

    Args:
        folder: to make, with the folders above it.
        numbered: if it is taken, make the next free one of `<folder>-2`, `<folder>-3` and so on.

    Yields:
        The folder that was made; no other process or thread has the same one.

    Raises:
        ConfigError: it exists already, or cannot be made.
    """
    missing = [each for each in folder.parents if not os.path.exists(each)]
    made = _make(folder, numbered=numbered)
    try:
        yield made
    finally:
        # stops at the first that holds something
        with contextlib.suppress(OSError):
            for each in (made, *missing):
                each.rmdir()


def _make(folder: Path, *, numbered: bool) -> Path:
    free, number, tries = folder, 1, 0
    while True:
        try:
            free.mkdir(parents=True)
            return free
        except FileNotFoundError as error:
            # another process has just removed an empty folder above it
            tries += 1
            if tries == _TRIES:
                raise _refused(free, error) from error
        except OSError as error:
            if not (isinstance(error, FileExistsError) and os.path.lexists(free)):
                raise _refused(free, error) from error
            if not numbered:
                raise exists_already("run-dir", folder) from error
            number += 1
            free = folder.with_name(f"{folder.name}-{number}")


def _refused(folder: Path, error: OSError) -> ConfigError:
    return ConfigError(f"run-dir {folder} cannot be made: {error.strerror}")
