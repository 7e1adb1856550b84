"""One of several runs that are trained side by side: what it is, how it tells of itself, and the process it has.

Nothing heavy is imported here: the process must heed its parent while PyTorch is still being loaded.
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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlpipe.errors import ConfigError, InterruptedRunError, RlpipeError
from rlpipe.pipelines.child_processes import QUIET_TRACKER

if TYPE_CHECKING:
    from rlpipe.pipelines.progress import Progress
    from rlpipe.pipelines.session import Display
    from rlpipe.pipelines.training.signals import Interruption

Message = dict[str, Any]
"""JSON: the run's `folder`, `progress` while it goes on, and once at its end `finished`, `failed` or `interrupted`."""

_EVERY = 0.2
_STOP = b"s"


@dataclass(frozen=True)
class Job:
    """A run to train, in values that JSON holds.

    Args:
        recipe: its name.
        algorithm: name of the module in `rlpipe.pipelines`.
        config: its JSON form, the seed in it.
        folder: of the run, to make.
        numbered: make the next free one if that is taken.
        weights: a checkpoint of another run to begin with.
        start_from: the same, as the user named it.
        loggers: where metrics go beside the journals.
    """

    recipe: str
    algorithm: str
    config: Mapping[str, Any]
    folder: str
    numbered: bool = False
    weights: str | None = None
    start_from: str | None = None
    loggers: tuple[Any, ...] = ()

    @property
    def seed(self) -> int:
        """Of the run."""
        return int(self.config["seed"])

    def train(self, display: Display) -> Message:
        """Train in this process, and return the message of its end.

        Args:
            display: as of a `Session`.
        """
        try:
            return {"finished": self._train(display)}
        except InterruptedRunError as error:
            return {"interrupted": str(error)}
        except RlpipeError as error:
            return {"failed": str(error), "refused": isinstance(error, ConfigError)}
        except MemoryError:
            return {"failed": "there is not enough memory"}
        except Exception as error:
            # of the program and not of its user, hence with the trace
            traceback.print_exc()
            return {"failed": f"{type(error).__name__}: {error}".rstrip(": ")}

    def _train(self, display: Display) -> dict[str, Any]:
        from rlpipe.pipelines.algorithms.recipes import config_class
        from rlpipe.pipelines.config.train import config_from_json
        from rlpipe.pipelines.session import Session

        session = Session(
            self.recipe,
            self.algorithm,
            config_from_json(config_class(self.algorithm), self.config),
            Path(self.folder),
            numbered=self.numbered,
            start_from=self.start_from,
            display=display,
            loggers=tuple(self.loggers),
        )
        return session.run(None if self.weights is None else Path(self.weights))


class Reporter:
    """Tells a run's progress a few times a second, whatever the number of batches.

    Args:
        tell: takes a message.
        window: episodes that anybody asks for; of more that have ended meanwhile, the latest are told.
    """

    def __init__(self, tell: Callable[[Message], None], window: int) -> None:
        self._tell, self._window, self._next = tell, window, 0.0
        self._episodes: list[tuple[float, int]] = []

    def __call__(self, progress: Progress) -> None:
        """Tell it, unless the next one will do."""
        self._episodes += zip(progress.returns, progress.lengths, strict=True)
        del self._episodes[: -self._window]
        now = time.monotonic()
        if progress.stage == "training" and now < self._next:
            return
        self._next = now + _EVERY
        told = dataclasses.replace(
            progress,
            scalars={},
            returns=[value for value, _ in self._episodes],
            lengths=[length for _, length in self._episodes],
        )
        self._episodes = []
        self._tell({"progress": dataclasses.asdict(told)})


def progress_of(message: Message) -> Progress:
    """What a `Reporter` was told, from its message."""
    from rlpipe.pipelines.progress import Evaluation, Progress

    fields = dict(message["progress"])
    if (found := fields.pop("evaluation")) is not None:
        fields["evaluation"] = Evaluation(tuple(found["returns"]), tuple(found["lengths"]))
    return Progress(**fields)


def main() -> None:
    """Train the job that stdin describes in a line, and tell of it on stdout, for `Processes`.

    What comes on stdin later asks the run to stop, and the end of stdin is the end of the parent.
    """
    asked, told = os.dup(0), os.dup(1)
    # what an environment prints is no message, and what it reads is no line of the parent's
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    _die_with_parent()
    sys.warnoptions.append(QUIET_TRACKER)
    # as long as nothing is written; a run has handlers of its own
    signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
    with os.fdopen(os.dup(asked), "rb", buffering=0) as stdin:
        job = Job(**json.loads(stdin.readline()))
    threading.Thread(target=_heed, args=[asked], name="rlpipe job", daemon=True).start()

    def tell(message: Message) -> None:
        _write_all(told, json.dumps(message).encode() + b"\n")

    def display(interruption: Interruption, folder: Path) -> contextlib.nullcontext[Reporter]:
        _stop_but_once(interruption)
        tell({"folder": str(folder)})
        return contextlib.nullcontext(Reporter(tell, job.config["curve_window"]))

    tell(job.train(display))


def _heed(asked: int) -> None:
    while os.read(asked, 1):
        # as if the signal came, but to nobody else in this process's group
        _thread.interrupt_main(signal.SIGTERM)
    os._exit(1)


def _stop_but_once(interruption: Interruption) -> None:
    """Take SIGTERM from the parent and from the system together for one, or the second would end the process."""
    first: Any = signal.getsignal(signal.SIGTERM)
    interruption.announce = lambda _: None
    signal.signal(signal.SIGTERM, lambda number, frame: first(number, frame) if interruption.signal is None else None)


def _die_with_parent() -> None:
    if sys.platform == "linux":
        import ctypes

        # in the middle of a long step, the end of stdin would come late
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _write_all(handle: int, data: bytes) -> None:
    try:
        while data:
            data = data[os.write(handle, data) :]
    except BrokenPipeError:
        os._exit(1)
