"""New run folders: a run claims one by making it, so that no two runs have the same."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator
from pathlib import Path

from rlpipe.errors import ConfigError, exists_already
from rlpipe.pipelines.checkpoints.names import FOLDER

_TRIES = 10


def default_folder(recipe: str, seed: int) -> Path:
    """`runs/<recipe>/<seed>-<time>`, which may exist already, see `claimed`."""
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs", *recipe.split("/"), f"{seed}-{now}")


@contextlib.contextmanager
def claimed(folder: Path, *, numbered: bool = False) -> Iterator[Path]:
    """Make a new run folder, and those above it; it is removed at the end of the block if it is still empty.

    If it exists and `numbered` is set, make the next free one of `<folder>-2`, `<folder>-3` and so on. Yields the one
    that was made; no other process or thread has the same one.

    Raises:
        ConfigError: it exists already, or cannot be made.
    """
    missing = [each for each in folder.parents if not os.path.exists(each)]
    made = _make(folder, numbered=numbered)
    try:
        yield made
    finally:
        # stops at the first that is not empty
        with contextlib.suppress(OSError):
            for each in (made, *missing):
                each.rmdir()


def make_run_folder(folder: Path, *, claimed: bool) -> None:
    """Make a run folder, unless it was claimed for this run, and one for checkpoints in it.

    Raises:
        ConfigError: it exists already, or cannot be made.
    """
    if not claimed:
        _make(folder, numbered=False)
    try:
        (folder / FOLDER).mkdir(parents=True)
    except FileExistsError as error:
        raise exists_already("run-dir", folder) from error
    except OSError as error:
        raise _refused(folder, error) from error


def _make(folder: Path, *, numbered: bool) -> Path:
    free, number, tries = folder, 1, 0
    while True:
        try:
            free.mkdir(parents=True)
            return free
        except FileNotFoundError as error:
            # another process removed an empty parent folder meanwhile
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
