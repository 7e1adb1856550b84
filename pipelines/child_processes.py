"""Child processes: they ignore Ctrl-C, and end with their parent. Imports nothing heavy."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker
from types import FrameType

from rlpipe.errors import ConfigError

NO_GUARD = (
    "the script has no main guard: each process that it starts imports it, and would run it again; put what it does "
    'under: if __name__ == "__main__":'
)
"""The message of the error for a main script without a guard."""
_UNGUARDED = 79
"""An exit code that nothing else uses."""
_PR_SET_PDEATHSIG = 1


QUIET_TRACKER = "ignore:resource_tracker:UserWarning"
"""A filter that Python's semaphore tracker inherits; without it, it warns whenever a run is killed."""


@contextlib.contextmanager
def interrupts_wait(context: str | None) -> Iterator[None]:
    """Hold Ctrl-C back until the end; processes that start within never receive it, not even before their code runs."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    if multiprocessing.get_context(context).get_start_method() != "fork":
        # start the semaphore tracker first, because starting it unblocks Ctrl-C again
        resource_tracker.ensure_running()
    handler, received = signal.getsignal(signal.SIGINT), list[tuple[int, FrameType | None]]()
    # the mask is this thread's alone, and a signal that another thread receives is handled in the main one as well
    is_main = threading.current_thread() is threading.main_thread() and callable(handler)
    if is_main:
        signal.signal(signal.SIGINT, lambda *arguments: received.append(arguments))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if is_main:
            signal.signal(signal.SIGINT, handler)
        if received and callable(handler):
            handler(*received[0])


def check_main_guard() -> None:
    """End a spawned process that comes here while it imports the main script.

    It would run the script again: train, and start more processes. Its parent raises the error, see `unguarded`.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        sys.stderr.write(f"rlpipe: error: {NO_GUARD}\n")
        raise SystemExit(_UNGUARDED)


def unguarded(exit_code: int | None) -> bool:
    """Whether a process ended because of `check_main_guard`."""
    return exit_code == _UNGUARDED


def stay_with_parent() -> bool:
    """Ignore Ctrl-C, and end this process with its parent; false if the parent has ended already."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        # a worker in a long step would not notice that its pipe was closed
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    # in a container, a parent that is alive may be process 1
    return parent is None or os.getppid() != 1 or parent.pid == 1


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT`.

    Raises:
        ConfigError: the address has another form.
    """
    host, _, port = address.rpartition(":")
    if not host or not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 65_536 or re.search(r"[\s/@]", host):
        raise ConfigError(f"ray_address is {address!r}; expected HOST:PORT, as `ray start --head` prints it")
    return host.strip("[]"), int(port)
