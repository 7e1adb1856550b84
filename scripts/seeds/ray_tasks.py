"""Trains several seeds as Ray tasks, on this machine or on a cluster."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlpipe.errors import ConfigError, TrainingError, first_line
from rlpipe.pipelines.child_processes import split_address
from rlpipe.scripts.seeds.job import Job, Message, ProgressSender

if TYPE_CHECKING:
    from rlpipe.pipelines.training.signals import Interruption

_ANSWERS = 60.0
"""Seconds that Ray has for an answer."""


class Mailbox:
    """An actor that holds the messages of the tasks for the driver, and the driver's request to stop."""

    def __init__(self) -> None:
        self._news: list[tuple[int, Message]] = []
        self._stopping = False

    def put(self, seed: int, message: Message) -> bool:
        """Add a message; returns whether the run must stop."""
        self._news.append((seed, message))
        return self._stopping

    def take(self) -> list[tuple[int, Message]]:
        """Return and remove all messages."""
        news, self._news = self._news, []
        return news

    def stop(self) -> None:
        """Ask all runs to stop."""
        self._stopping = True


class RayTasks:
    """Trains jobs as Ray tasks, each in a new process with as many CPUs as its run needs.

    A run needs `threads` in all its processes; with `device="cuda"` its task gets a GPU too. Ray decides where and when
    tasks run. The folder of a run is made on the machine of its task. The `address` is that of a cluster, `HOST:PORT`;
    by default the variable `RAY_ADDRESS`. Without either, Ray is started on this machine, and stopped by `close`.

    Raises:
        ConfigError: Ray is not installed, the cluster does not answer, or no machine in it is large enough.
    """

    free = True
    """Another job may always start: Ray queues jobs."""

    def __init__(self, address: str | None, threads: int, device: str) -> None:
        self._opened = contextlib.ExitStack()
        with contextlib.ExitStack() as opened:
            self._ray = _connect(address or _address_from_environment(), opened)
            needed: dict[str, float] = {"CPU": threads, **({"GPU": 1} if device == "cuda" else {})}
            _check_room(self._ray, needed)
            # a new process for each run; no retry after a crash, because the run folder exists already
            self._task = self._ray.remote(max_calls=1, max_retries=0, num_cpus=threads, num_gpus=needed.get("GPU", 0))(
                train_job
            )
            self._mailbox = self._ray.remote(num_cpus=0)(Mailbox).remote()
            self._running: dict[Any, int] = {}
            self._begun: set[int] = set()
            self._opened = opened.pop_all()

    @property
    def busy(self) -> bool:
        """Whether any job is unfinished."""
        return bool(self._running)

    def start(self, job: Job) -> None:
        """Queue a job."""
        job = dataclasses.replace(job, folder=os.path.abspath(job.folder))
        self._running[self._task.remote(dataclasses.asdict(job), self._mailbox)] = job.seed

    def messages(self, timeout: float) -> Iterator[tuple[int, Message]]:
        """See `Processes.messages`; there are no notes, because the stderr of a task goes to Ray's logs."""
        done, _ = self._ray.wait(list(self._running), timeout=timeout)
        with self._naming_failures():
            news = self._ray.get(self._mailbox.take.remote(), timeout=_ANSWERS)
        self._begun |= {seed for seed, _ in news}
        yield from news
        for task in done:
            yield self._running.pop(task), self._end_of(task)

    def stop(self) -> None:
        """Ask every job to write a checkpoint and end, and cancel those that have not started."""
        with self._naming_failures():
            self._ray.get(self._mailbox.stop.remote(), timeout=_ANSWERS)
        for task, seed in self._running.items():
            if seed not in self._begun:
                self._ray.cancel(task)

    def close(self) -> None:
        """Stop the jobs that still run, and Ray if it was started here."""
        self._opened.close()

    def _end_of(self, task: Any) -> Message:
        errors = self._ray.exceptions
        try:
            return dict(self._ray.get(task))
        except errors.TaskCancelledError:
            return {"interrupted": "not started"}
        except errors.OutOfMemoryError:
            return {"died": "its machine ran out of memory, and Ray killed it"}
        except errors.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, BaseException) else error
            return {"failed": f"{type(cause).__name__}: {cause}"}
        except errors.RayError as error:
            return {"died": first_line(error)}

    @contextlib.contextmanager
    def _naming_failures(self) -> Iterator[None]:
        try:
            yield
        except self._ray.exceptions.RayError as error:
            what = f"{type(error).__name__}: {first_line(error)}"
            raise TrainingError(f"Ray has stopped, and its tasks with it ({what})") from error


def train_job(described: dict[str, Any], mailbox: Any) -> Message:
    """The Ray task: train a job, report its progress to the mailbox, and return its last message."""
    import ray

    job = Job(**described)

    def display(interruption: Interruption, folder: Path) -> contextlib.nullcontext[ProgressSender]:
        interruption.announce = lambda _: None
        ray.get(mailbox.put.remote(job.seed, {"folder": str(folder)}))

        def send(message: Message) -> None:
            if ray.get(mailbox.put.remote(job.seed, message)) and interruption.signal is None:
                interruption.signal = signal.SIGTERM

        return contextlib.nullcontext(ProgressSender(send, job.config["curve_window"]))

    ray.get(mailbox.put.remote(job.seed, {"begun": socket.gethostname()}))
    return job.train(display)


def _address_from_environment() -> str | None:
    address = os.environ.get("RAY_ADDRESS")
    if address is not None:
        try:
            split_address(address)
        except ConfigError as error:
            raise ConfigError(str(error).replace("ray_address", "the variable RAY_ADDRESS", 1)) from None
    return address


def _connect(address: str | None, opened: contextlib.ExitStack) -> Any:
    """Connect to Ray; `opened` closes the connection."""
    # no warning about GPUs in tasks without one
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            f'--jobs ray needs Ray, which is not installed: pip install "rlpipe[ray]" ({error})'
        ) from None
    from rlpipe.pipelines.collectors.ray_connection import RayConnection

    # Ray's threads print to stdout, where the summary belongs
    opened.enter_context(contextlib.redirect_stdout(io.StringIO()))
    opened.callback(RayConnection(address).close)
    return ray


def _check_room(ray: Any, needed: dict[str, float]) -> None:
    """Refuse a task that no machine can run, which would wait forever."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for name, number in needed.items():
        most = max((machine.get(name, 0) for machine in machines), default=0)
        if most < number:
            what = f"threads is {number}" if name == "CPU" else "device is 'cuda'"
            raise ConfigError(f"{what}, and no machine of the Ray cluster has more than {most:.0f} {name}s")
