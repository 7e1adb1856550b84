"""Runs side by side as Ray tasks, on this machine or on those of a cluster."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlpipe.errors import ConfigError, TrainingError
from rlpipe.scripts.seeds.job import Job, Message, Reporter

if TYPE_CHECKING:
    from rlpipe.pipelines.training.signals import Interruption

_ANSWERS = 10.0
_CONNECTS = 60.0
_OVER = {"finished", "failed", "interrupted", "died"}


class Mailbox:
    """What the tasks have told and the driver has not yet read, and whether they are to stop."""

    def __init__(self) -> None:
        self._news: list[tuple[int, Message]] = []
        self._stopping = False

    def tell(self, seed: int, message: Message) -> bool:
        """Leave a message; returns whether the run is to stop."""
        self._news.append((seed, message))
        return self._stopping

    def take(self) -> list[tuple[int, Message]]:
        """All messages that nobody has taken yet."""
        news, self._news = self._news, []
        return news

    def stop(self) -> None:
        """Ask all to stop."""
        self._stopping = True


class RayTasks:
    """Trains jobs as Ray tasks, each in a fresh process that has as many CPUs as its run needs.

    On `device="cuda"` a task has a GPU too. Ray decides which run where and when. The folder of a run is made on the
    machine of its task.

    Args:
        address: of a cluster, `HOST:PORT`; by default what `RAY_ADDRESS` says. Without any, Ray
            is started here, and shut down by `close`.
        threads: of each run, in all its processes.
        device: of each run.

    Raises:
        ConfigError: Ray is not installed, the cluster does not answer, or has no machine for such a task.
    """

    free = True
    """Whether another job may start: Ray lets them wait."""

    def __init__(self, address: str | None, threads: int, device: str) -> None:
        self._opened = contextlib.ExitStack()
        with contextlib.ExitStack() as opened:
            self._ray = _connect(address or os.environ.get("RAY_ADDRESS"), opened)
            needed: dict[str, float] = {"CPU": threads, **({"GPU": 1} if device == "cuda" else {})}
            _check_room(self._ray, needed)
            # a new process for each run, and none again for one that has died: its folder is there already
            self._task = self._ray.remote(max_calls=1, max_retries=0, num_cpus=threads, num_gpus=needed.get("GPU", 0))(
                train_job
            )
            self._mailbox = self._ray.remote(num_cpus=0)(Mailbox).remote()
            self._running: dict[Any, int] = {}
            self._begun: set[int] = set()
            self._opened = opened.pop_all()

    @property
    def busy(self) -> bool:
        """Whether any job has not ended."""
        return bool(self._running)

    def start(self, job: Job) -> None:
        """Begin with a job, as soon as there is room for it."""
        job = dataclasses.replace(job, folder=os.path.abspath(job.folder))
        self._running[self._task.remote(dataclasses.asdict(job), self._mailbox)] = job.seed

    def messages(self, timeout: float) -> Iterator[tuple[int, Message]]:
        """As of `Processes`, without notes: what a task writes to stderr is in Ray's logs."""
        done, _ = self._ray.wait(list(self._running), timeout=timeout)
        with self._naming_failures():
            news = self._ray.get(self._mailbox.take.remote(), timeout=_CONNECTS)
        self._begun |= {seed for seed, _ in news}
        yield from news
        for task in done:
            yield self._running.pop(task), self._end_of(task)

    def stop(self) -> None:
        """Ask every job to write a checkpoint and end; those that have not begun never will."""
        with self._naming_failures():
            self._ray.get(self._mailbox.stop.remote(), timeout=_CONNECTS)
        for task, seed in self._running.items():
            if seed not in self._begun:
                self._ray.cancel(task)

    def close(self) -> None:
        """End what still runs, and Ray if it was started here."""
        self._opened.close()

    def _end_of(self, task: Any) -> Message:
        errors = self._ray.exceptions
        try:
            return dict(self._ray.get(task))
        except errors.TaskCancelledError:
            return {"interrupted": "not begun"}
        except errors.OutOfMemoryError:
            return {"died": "its machine ran out of memory, and Ray killed it"}
        except errors.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, BaseException) else error
            return {"failed": f"{type(cause).__name__}: {cause}"}
        except errors.RayError as error:
            return {"died": str(error).splitlines()[0].strip()}

    @contextlib.contextmanager
    def _naming_failures(self) -> Iterator[None]:
        try:
            yield
        except self._ray.exceptions.RayError as error:
            what = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            raise TrainingError(f"Ray has gone, and its tasks with it ({what})") from error


def train_job(described: dict[str, Any], mailbox: Any) -> Message:
    """The task: train a job, tell the mailbox of it, and return the message of its end."""
    import ray

    job = Job(**described)

    def display(interruption: Interruption, folder: Path) -> contextlib.nullcontext[Reporter]:
        interruption.announce = lambda _: None
        ray.get(mailbox.tell.remote(job.seed, {"folder": str(folder)}))

        def tell(message: Message) -> None:
            if ray.get(mailbox.tell.remote(job.seed, message)) and interruption.signal is None:
                interruption.signal = signal.SIGTERM

        return contextlib.nullcontext(Reporter(tell, job.config["curve_window"]))

    ray.get(mailbox.tell.remote(job.seed, {"begun": socket.gethostname()}))
    return job.train(display)


def _connect(address: str | None, opened: contextlib.ExitStack) -> Any:
    """Ray, connected; `opened` undoes it."""
    if address is not None:
        _check_answers(address)
    # nobody has asked for statistics, nor for a warning about GPUs
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise ConfigError(f'jobs "ray" need Ray, which is not installed: pip install "rlpipe[ray]" ({error})') from None
    if ray.is_initialized():
        # of the program that has called this one
        return ray
    # some that come from Ray's threads go to stdout, where the summary belongs
    opened.enter_context(contextlib.redirect_stdout(io.StringIO()))
    if threading.current_thread() is threading.main_thread():
        # Ray puts one of its own there
        opened.callback(signal.signal, signal.SIGTERM, signal.getsignal(signal.SIGTERM))
    opened.callback(ray.shutdown)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if address is None:
        # not the one that happens to run on this machine
        ray.init(address="local", include_dashboard=False, **quiet)
    else:
        _join(ray, address, quiet)
    return ray


def _check_answers(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"the address of Ray is {address!r}; expected HOST:PORT, such as 192.0.2.7:6379")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWERS).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"no Ray cluster answers at {address} within {_ANSWERS:.0f} s ({error}); "
            "ray start --head --port PORT begins one"
        ) from None


def _join(ray: Any, address: str, quiet: dict[str, Any]) -> None:
    """Connect to a cluster; what answers may be something else, for which Ray would wait two minutes."""
    failures: list[BaseException] = []

    def connect() -> None:
        try:
            ray.init(address=address, **quiet)
        except BaseException as error:  # Ray's own exit among them
            failures.append(error)

    thread = threading.Thread(target=connect, name="rlpipe ray", daemon=True)
    with _stderr_into_nothing():
        thread.start()
        thread.join(_CONNECTS)
    if thread.is_alive() or failures:
        reason = f" ({' '.join(str(failures[0]).split())})" if failures else f" within {_CONNECTS:.0f} s"
        raise ConfigError(
            f"what is at {address} does not let this machine join as a Ray cluster would{reason}; "
            "a cluster with authentication needs its token in RAY_AUTH_TOKEN"
        )


@contextlib.contextmanager
def _stderr_into_nothing() -> Iterator[None]:
    """Also what Ray's C++ parts write there; what went wrong is said once, and in our own words."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def _check_room(ray: Any, needed: dict[str, float]) -> None:
    """Refuse what would wait for ever."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for name, number in needed.items():
        most = max((machine.get(name, 0) for machine in machines), default=0)
        if most < number:
            what = f"threads is {number}" if name == "CPU" else "device is 'cuda'"
            raise ConfigError(f"{what}, and no machine of the Ray cluster has more than {most:.0f} {name}s")
