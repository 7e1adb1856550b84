"""Ctrl-C and SIGTERM: the first lets training finish its batch and write a checkpoint, the second stops at once."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

_WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}

_ECHO = 1.0
"""Seconds in which another SIGTERM is the same one: `timeout` sends it to the process, and then to its group."""


class Interruption:
    """Handles the two signals while it is entered; only Python's main thread can.

    Outside `held_back`, a signal is a `KeyboardInterrupt`. Within, it is only taken note of, in `signal`. A second one
    ends the process, with the exit code that shells give: 128 and the signal's number.

    `announce` gets the one line that says so. Whoever draws on the terminal meanwhile may put another function there;
    it is called in the signal's handler, hence must not write into a buffered stream.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.announce: Callable[[str], None] = write_at_once
        self._held_back, self._since = False, 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in _WORDS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def held_back(self) -> Iterator[None]:
        """Within, look at `signal` when it suits."""
        self._held_back = True
        try:
            yield
        finally:
            self._held_back = False

    @property
    def word(self) -> str:
        """What happened."""
        return _WORDS.get(signal.Signals(self.signal), "interrupted") if self.signal else "interrupted"

    @property
    def exit_code(self) -> int:
        """As shells have it: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + (self.signal or signal.SIGINT)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if number == self.signal == signal.SIGTERM and time.monotonic() - self._since < _ECHO:
            return
        if self.signal is not None:
            # nothing of Python's own way out: it might wait for what is stuck
            write_at_once("rlpipe: stopped at once")
            os._exit(128 + number)
        self.signal, self._since = number, time.monotonic()
        if not self._held_back:
            raise KeyboardInterrupt
        self.announce(f"rlpipe: {self.word}: finishing the batch and writing a checkpoint; once more stops at once")


def write_at_once(text: str) -> None:
    """Write a line of its own to the process's stderr, past every buffer."""
    os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"\n{text}\n".encode())
