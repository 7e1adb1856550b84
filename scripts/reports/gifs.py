"""The GIFs of runs, encoded as text for a page."""

from __future__ import annotations

import base64
import os
import stat
from pathlib import Path

from rlpipe.pipelines.runs.layout import GIF

LARGEST = 8_000_000
"""Maximum size of one GIF, in bytes."""
LARGEST_TOGETHER = 24_000_000
"""Maximum size of all GIFs of a page, in bytes."""
_WIDEST = 4_096


class Gifs:
    """Collects the `agent.gif` of run folders, as far as they fit into a number of bytes for each and for all."""

    def __init__(self, largest: int = LARGEST, together: int = LARGEST_TOGETHER) -> None:
        self.taken: dict[Path, str] = {}
        """The GIF of each run folder as a `data:` address."""
        self.notes: list[str] = []
        """What was left out, and why."""
        self._largest, self._left = largest, together

    def add(self, folder: Path) -> None:
        """Add the GIF of a run folder, if it has one."""
        path = folder / GIF
        if not path.is_symlink() and not path.exists():
            return
        try:
            content = read_gif(path, self._largest)
            if len(content) > self._left:
                raise ValueError("the page is full of other GIFs")
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            self.notes.append(f"GIF {path} was left out: {reason}")
            return
        self._left -= len(content)
        self.taken[folder] = f"data:image/gif;base64,{base64.b64encode(content).decode()}"


def read_gif(path: Path, at_most: int) -> bytes:
    """Read a GIF; does not follow links or wait for pipes.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not a regular file, not a GIF, or too large.
    """
    # Windows has no such flags
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with open(path, "rb", opener=lambda name, _: os.open(name, flags)) as stream:
        found = os.fstat(stream.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("it is not a regular file")
        content = stream.read(at_most + 1)
    if len(content) > at_most:
        raise ValueError(f"it has {found.st_size:,} bytes, allowed are {at_most:,}")
    width, height = (int.from_bytes(content[at : at + 2], "little") for at in (6, 8))
    if content[:6] not in (b"GIF87a", b"GIF89a") or not content.endswith(b";"):
        raise ValueError("it is not a complete GIF")
    if not (0 < width <= _WIDEST and 0 < height <= _WIDEST):
        raise ValueError(f"it is {width} x {height}, allowed are up to {_WIDEST} x {_WIDEST}")
    return content
