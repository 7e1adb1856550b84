"""Warnings of environments: each is shown once, not once for each copy of an environment.

It is not in `envs/`, because worker processes import it, and that package imports PyTorch.
"""

from __future__ import annotations

import contextlib
import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterator

_LOG = logging.getLogger("rlpipe")
_seen: set[object] | None = None
_show: Callable[[str], None] = _LOG.warning


def notice(words: str) -> None:
    """Log a warning; within `each_once`, the same one is shown only once."""
    if _is_new(words):
        _show(words)


def send_to(show: Callable[[str], None]) -> None:
    """Pass the notices of this process to a function, such as one that sends them to another process."""
    global _show  # noqa: PLW0603 - one setting of the process, like `warnings.showwarning`
    _show = show


@contextlib.contextmanager
def each_once() -> Iterator[None]:
    """Show no notice and no Python warning twice within the block; texts that differ only in numbers are the same.

    Python shows a warning once for each line of code, but forgets it whenever its filters change.
    """
    global _seen  # noqa: PLW0603
    if _seen is not None:
        yield
        return
    show = warnings.showwarning

    def show_new(message: Warning | str, category: type[Warning], *where: object, **options: object) -> None:
        if _is_new((category, _without_numbers(str(message)))):
            show(message, category, *where, **options)  # type: ignore[arg-type]

    _seen = set()
    # by assignment, because `warnings.catch_warnings` would also undo filters that others set meanwhile
    warnings.showwarning = show_new
    try:
        yield
    finally:
        _seen = None
        if warnings.showwarning is show_new:
            warnings.showwarning = show


def notice_mujoco() -> None:
    """Show MuJoCo's warnings once, if it is imported; it prints and logs them for each copy and each episode.

    What is deprecated concerns the author of a model, and is not shown, as with Python's own such warnings.
    """
    mujoco = sys.modules.get("mujoco")
    if mujoco is None or mujoco.get_mju_user_warning() is not None:
        return
    seen: set[str] = set()

    def tell(words: str) -> None:
        if (kind := _without_numbers(words)) not in seen and "deprecated" not in words:
            seen.add(kind)
            notice(f"rlpipe: MuJoCo warns, and will not again: {words}")

    mujoco.set_mju_user_warning(tell)


def _is_new(key: object) -> bool:
    if _seen is None:
        return True
    known = key in _seen
    _seen.add(key)
    return not known


def _without_numbers(words: str) -> str:
    return re.sub(r"\d+", "", words)
