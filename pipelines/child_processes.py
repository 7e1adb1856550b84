"""Processes that this one starts: they never see Ctrl-C, and never outlive it. Imports nothing heavy."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from multiprocessing import resource_tracker

NO_GUARD = (
    "the script has no main guard: each process that it starts imports it, and would run it again; put what it does "
    'under: if __name__ == "__main__":'
)
"""What an error says where the main script lacks its guard."""
_UNGUARDED = 79
"""An exit code that nothing else has."""
_PR_SET_PDEATHSIG = 1


QUIET_TRACKER = "ignore:resource_tracker:UserWarning"
"""Python's process that tracks semaphores takes this over; else it complains whenever a run is stopped at once."""


@contextlib.contextmanager
def interrupts_wait(context: str | None) -> Iterator[None]:
    """Hold Ctrl-C back; processes that start within never see it, not even before their own code runs."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    if multiprocessing.get_context(context).get_start_method() != "fork":
        # the process that tracks semaphores comes first: in starting, it would let Ctrl-C through again
        resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def check_main_guard() -> None:
    """End this process if it has only begun, and comes here by importing the main script, as a spawned process does.

    What it would do is what the script does anew: train, and start processes in its turn. Whoever started it tells of
    it, see `unguarded`.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        sys.stderr.write(f"rlpipe: error: {NO_GUARD}\n")
        raise SystemExit(_UNGUARDED)


def unguarded(exit_code: int | None) -> bool:
    """Whether a process has ended because of `check_main_guard`."""
    return exit_code == _UNGUARDED


def stay_with_parent() -> bool:
    """Let this process die with its parent, which alone Ctrl-C is for; false if that has gone already."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        # a worker in the middle of a long step would not notice the end of its pipe
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    # in a container, the parent that lives may be process 1 itself
    return parent is None or os.getppid() != 1 or parent.pid == 1
