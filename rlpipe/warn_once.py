"""Warnings of environments: each is shown once, not once for each copy of an environment.

Not among `envs/`, because each worker process imports this module, and that package imports PyTorch.
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
_tell: Callable[[str], None] = _LOG.warning


def notice(words: str) -> None:
    """Warn in one line; within `each_once` not twice of the same."""
    if _is_new(words):
        _tell(words)


def send_to(tell: Callable[[str], None]) -> None:
    """Give the notices of this process to a function, such as one that sends them to another process."""
    global _tell  # noqa: PLW0603 - one setting of the process, as where Python shows its warnings is
    _tell = tell


@contextlib.contextmanager
def each_once() -> Iterator[None]:
    """Within, show no notice twice, nor any of Python's warnings: those that differ in their numbers are the same.

    Python itself shows one once for each line of code, but forgets which whenever its filters change.
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
    # by assignment, which `warnings.catch_warnings` would undo together with the filters that others set meanwhile
    warnings.showwarning = show_new
    try:
        yield
    finally:
        _seen = None
        if warnings.showwarning is show_new:
            warnings.showwarning = show


def notice_mujoco() -> None:
    """Take over MuJoCo's own warnings, which it prints, and logs, for each copy and each episode anew."""
    mujoco = sys.modules.get("mujoco")
    if mujoco is None or mujoco.get_mju_user_warning() is not None:
        return
    seen: set[str] = set()

    def tell(words: str) -> None:
        if (kind := _without_numbers(words)) not in seen:
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
