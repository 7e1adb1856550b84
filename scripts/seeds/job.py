"""One of several runs that are trained side by side: its description, its messages and its process.

It imports nothing heavy: the process must react to its parent while PyTorch is still loading.
"""

from __future__ import annotations

import _thread
import contextlib
import dataclasses
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlpipe.errors import ConfigError, InterruptedRunError, RlpipeError
from rlpipe.lazy import quick_imports
from rlpipe.pipelines.child_processes import QUIET_TRACKER, stay_with_parent
from rlpipe.pipelines.runs.layout import WINDOW

if TYPE_CHECKING:
    from rlpipe.pipelines.progress import Progress
    from rlpipe.pipelines.session import Display
    from rlpipe.pipelines.training.signals import Interruption

Message = dict[str, Any]
"""JSON: the run's `folder`, then `progress`, and at the end `finished`, `failed` or `interrupted`."""

_EVERY = 0.2


@dataclass(frozen=True)
class Job:
    """A run to train, in JSON values: `source` tells where a user's algorithm is.

    `weights` is a checkpoint of another run to start with, `start_from` the same as the user named it. With `numbered`,
    a number is added to the folder's name if it exists.
    """

    recipe: str
    algorithm: str
    source: Mapping[str, Any] | None
    config: Mapping[str, Any]
    folder: str
    numbered: bool = False
    weights: str | None = None
    start_from: str | None = None
    take: tuple[str, ...] = ()
    loggers: tuple[Any, ...] = ()

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return int(self.config["seed"])

    def train(self, display: Display) -> Message:
        """Train in this process, and return the last message; `display` is that of a `Session`."""
        began = time.perf_counter()
        try:
            with quick_imports(of_a_command=True):
                from rlpipe.pipelines.algorithms.recipes import recipe_of_run
                from rlpipe.pipelines.config.json_form import checked, config_from_json
                from rlpipe.pipelines.config.start import find_start
                from rlpipe.pipelines.session import Session
                from rlpipe.pipelines.summary import Stopwatch

            recipe = recipe_of_run({"recipe": self.recipe, "algorithm": self.algorithm, "source": self.source})
            config = checked(config_from_json(recipe.config_class, self.config))
            start = find_start(self.weights, self.take, config, recipe=self.recipe, algorithm=self.algorithm)
            session = Session(
                recipe,
                config,
                Path(self.folder),
                numbered=self.numbered,
                start_from=self.start_from,
                display=display,
                loggers=tuple(self.loggers),
                watch=Stopwatch(began),
            )
            return {"finished": session.run(start)}
        except InterruptedRunError as error:
            return {"interrupted": str(error)}
        except RlpipeError as error:
            return {"failed": str(error), "refused": isinstance(error, ConfigError)}
        except MemoryError:
            return {"failed": "there is not enough memory"}
        except Exception as error:
            # an error of the program and not of its user, so the traceback is useful
            traceback.print_exc()
            return {"failed": f"{type(error).__name__}: {error}".rstrip(": ")}


class ProgressSender:
    """Sends a run's progress a few times per second, with at most the latest `window` episodes in a message."""

    def __init__(self, send: Callable[[Message], None], window: int) -> None:
        self._send, self._next = send, 0.0
        self._episodes: deque[tuple[float, int]] = deque(maxlen=window)

    def __call__(self, progress: Progress) -> None:
        """Send the progress, or keep its episodes for the next message."""
        self._episodes.extend(zip(progress.returns, progress.lengths, strict=True))
        now = time.monotonic()
        if progress.stage == "training" and now < self._next:
            return
        self._next = now + _EVERY
        report = dataclasses.replace(
            progress,
            scalars={},
            returns=[value for value, _ in self._episodes],
            lengths=[length for _, length in self._episodes],
        )
        self._episodes.clear()
        self._send({"progress": dataclasses.asdict(report)})


def progress_of(message: Message) -> Progress:
    """The progress in the message of a `ProgressSender`."""
    from rlpipe.pipelines.progress import Evaluation, Progress

    fields = dict(message["progress"])
    if (found := fields.pop("evaluation")) is not None:
        fields["evaluation"] = Evaluation.from_json(found)
    return Progress(**fields)


def main() -> None:
    """Train the job described by the first line of stdin, and write messages to stdout, for `Processes`.

    Any later input on stdin asks the run to stop; the end of stdin means that the parent has ended.
    """
    stdin_copy, stdout_copy = os.dup(0), os.dup(1)
    # an environment must neither print among the messages nor read the parent's input
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    stay_with_parent()
    sys.warnoptions.append(QUIET_TRACKER)
    # until the run starts and sets its own handler, there is nothing to save
    signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
    with os.fdopen(os.dup(stdin_copy), "rb", buffering=0) as stdin:
        job = Job(**json.loads(stdin.readline()))
    threading.Thread(target=_wait_for_stop, args=[stdin_copy], name="rlpipe job", daemon=True).start()

    def send(message: Message) -> None:
        _write_all(stdout_copy, json.dumps(message).encode() + b"\n")

    def display(interruption: Interruption, folder: Path) -> contextlib.nullcontext[ProgressSender]:
        _stop_but_once(interruption)
        send({"folder": str(folder)})
        return contextlib.nullcontext(ProgressSender(send, job.config.get("curve_window", WINDOW)))

    send(job.train(display))


def _wait_for_stop(stdin: int) -> None:
    while os.read(stdin, 1):
        # like a signal, but only to this process and not to its group
        _thread.interrupt_main(signal.SIGTERM)
    os._exit(1)


def _stop_but_once(interruption: Interruption) -> None:
    """Ignore a second SIGTERM, which would end the process: parent and system may both send one."""
    first: Any = signal.getsignal(signal.SIGTERM)
    interruption.announce = lambda _: None
    signal.signal(signal.SIGTERM, lambda number, frame: first(number, frame) if interruption.signal is None else None)


def _write_all(handle: int, data: bytes) -> None:
    try:
        while data:
            data = data[os.write(handle, data) :]
    except BrokenPipeError:
        os._exit(1)
