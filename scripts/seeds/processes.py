"""Trains several seeds in separate processes, so that a crash of one does not affect the others."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

from rlpipe.pipelines.child_processes import interrupts_wait
from rlpipe.scripts.seeds.job import Job, Message

_DRAIN = 2.0


class Processes:
    """Trains jobs, each in a new Python process.

    Use it from the main thread: on Linux a process ends with the thread that started it. At most `at_once` jobs run at
    the same time.
    """

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._running: dict[int, subprocess.Popen[str]] = {}
        self._news: queue.SimpleQueue[tuple[int, Message]] = queue.SimpleQueue()

    @property
    def free(self) -> bool:
        """Whether another job may start."""
        return len(self._running) < self._at_once

    @property
    def busy(self) -> bool:
        """Whether any job is unfinished."""
        return bool(self._running)

    def start(self, job: Job) -> None:
        """Start a job."""
        # the same modules as here, and none from the current folder
        code = f"import sys; sys.path[:] = {sys.path!r}; from rlpipe.scripts.seeds.job import main; main()"
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        # the parent asks the job to stop, so the job must not see the Ctrl-C that a terminal sends to all processes
        with interrupts_wait("fork"):
            process = subprocess.Popen([sys.executable, "-c", code], text=True, errors="replace", **pipes)
        self._running[job.seed] = process
        threading.Thread(target=self._follow, args=[job.seed, process], daemon=True).start()
        self._news.put((job.seed, {"begun": ""}))
        # if the process has died already, its exit code says so
        with contextlib.suppress(OSError):
            process.stdin.write(json.dumps(dataclasses.asdict(job)) + "\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]

    def messages(self, timeout: float) -> Iterator[tuple[int, Message]]:
        """Yield seeds and messages of their jobs as they arrive; waits at most `timeout` seconds for the first.

        Beside the messages of a job there are `begun`, with the machine that it runs on if that may be another one,
        and `note`, a line that it wrote to stderr. The last message of each job is `finished`, `failed`, `interrupted`
        or, if it ended without a message, `died`.
        """
        with contextlib.suppress(queue.Empty):
            yield self._take(timeout)
            while True:
                yield self._take(0.0)

    def stop(self) -> None:
        """Ask every job to write a checkpoint and end."""
        for process in self._running.values():
            with contextlib.suppress(OSError):
                process.stdin.write("s")  # type: ignore[union-attr]
                process.stdin.flush()  # type: ignore[union-attr]

    def close(self) -> None:
        """Kill the jobs that still run."""
        for process in self._running.values():
            process.kill()
        for process in self._running.values():
            process.wait()
            _close_stdin(process)
        self._running.clear()

    def _take(self, timeout: float) -> tuple[int, Message]:
        seed, message = self._news.get(timeout=timeout) if timeout else self._news.get_nowait()
        if not {"begun", "note", "folder", "progress"} & message.keys():
            _close_stdin(self._running.pop(seed))
        return seed, message

    def _follow(self, seed: int, process: subprocess.Popen[str]) -> None:
        last: list[Message] = []

        def read_messages() -> None:
            with process.stdout as lines:  # type: ignore[union-attr]
                for line in lines:
                    message = json.loads(line)
                    if {"folder", "progress"} & message.keys():
                        self._news.put((seed, message))
                    else:
                        last.append(message)

        def read_notes() -> None:
            with process.stderr as lines:  # type: ignore[union-attr]
                for line in lines:
                    self._news.put((seed, {"note": line.rstrip()}))

        readers = [threading.Thread(target=each, daemon=True) for each in (read_messages, read_notes)]
        for reader in readers:
            reader.start()
        code = process.wait()
        for reader in readers:
            # a process that an environment left behind may keep the pipes open forever
            reader.join(_DRAIN)
        self._news.put((seed, last[-1] if last else {"died": _cause(code)}))


def _close_stdin(process: subprocess.Popen[str]) -> None:
    # closing flushes what the process has not read, which fails if it is dead
    with contextlib.suppress(OSError):
        process.stdin.close()  # type: ignore[union-attr]


def _cause(code: int) -> str:
    if code >= 0:
        return f"its process ended with exit code {code}, without a last message"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    often = "; this often means that memory ran out" if name == "SIGKILL" else ""
    return f"its process was killed by {name}{often}"
