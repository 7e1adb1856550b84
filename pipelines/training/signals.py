"""Ctrl-C and SIGTERM: after the first, training finishes its batch and writes a checkpoint; the second ends it."""

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
"""Seconds within which a second SIGTERM counts as the same: `timeout` sends it to the process, then to its group."""


class Interruption:
    """Handles both signals while it is entered, in Python's main thread.

    Outside `held_back`, a signal raises `KeyboardInterrupt`. Within, it is only kept, in `signal`. A second one ends
    the process, with the exit code of shells: 128 plus the signal's number.

    `announce` prints the line that reports the first signal. A display that draws on the terminal may replace it; it is
    called in the signal's handler, so it must not write to a buffered stream.
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
        """Keep signals in `signal` within the block."""
        self._held_back = True
        try:
            yield
        finally:
            self._held_back = False

    @property
    def word(self) -> str:
        """`interrupted` or `terminated`."""
        return _WORDS.get(signal.Signals(self.signal), "interrupted") if self.signal else "interrupted"

    @property
    def exit_code(self) -> int:
        """As in shells: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + (self.signal or signal.SIGINT)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if number == self.signal == signal.SIGTERM and time.monotonic() - self._since < _ECHO:
            return
        if self.signal is not None:
            # without Python's cleanup, which might wait for what is stuck
            write_at_once("rlpipe: stopped at once")
            os._exit(128 + number)
        self.signal, self._since = number, time.monotonic()
        if not self._held_back:
            raise KeyboardInterrupt
        self.announce(
            f"rlpipe: {self.word}: finishing the batch and writing a checkpoint; a second signal stops at once"
        )


def write_at_once(text: str) -> None:
    """Write a line to the process's stderr, past every buffer."""
    os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"\n{text}\n".encode())
