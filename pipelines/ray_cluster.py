"""The connection to Ray: a local one of the run's own, or a cluster that is there already."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

import ray
from ray._private.ray_logging import stdout_deduplicator
from torchrl._comm.ray_runtime import _RayRuntimeLease

from rlpipe.errors import ConfigError
from rlpipe.pipelines.placement import split_address

CONNECT_SECONDS = 20
"""After so long a cluster that does not answer is given up."""
_PROBE = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='error'); ray.shutdown()"
"""In a process of its own, because what is no Ray would keep this one waiting for minutes, and Ray talkative."""


class RayConnection:
    """This process's connection to Ray, quiet; all who hold one share it, and it ends with the last of them.

    Where the process is connected already by other means, that connection is used, and left as it is.

    Args:
        address: `HOST:PORT` of a cluster's head; by default a Ray of one's own is started on this machine.
        cpus: to be divided among actors, of a Ray of one's own; there need not be so many cores.

    Raises:
        ConfigError: the cluster does not answer within `CONNECT_SECONDS`.
    """

    def __init__(self, address: str | None, cpus: int) -> None:
        self.is_open, self._folder = True, ""
        options: dict[str, Any] = {"address": address, "log_to_driver": False, "configure_logging": False}
        if ray.is_initialized():
            options = {}
        elif address is not None:
            _silence()
            _use_token()
            _check_reachable(address)
        else:
            _silence()
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            self._folder = tempfile.mkdtemp(prefix="rlpipe-ray-")
            options |= {"address": "local", "num_cpus": cpus, "include_dashboard": False, "_temp_dir": self._folder}
        try:
            with _keep_sigterm():
                self._lease = _RayRuntimeLease.acquire(options)
        except BaseException as error:
            ray.shutdown()
            shutil.rmtree(self._folder, ignore_errors=True)
            if not isinstance(error, Exception):
                raise
            where = "on this machine" if address is None else f"at {address}"
            raise ConfigError(f"Ray {where} cannot be used: {_in_a_line(error)}") from error

    def close(self) -> None:
        """Disconnect, and stop a Ray of one's own."""
        if not self.is_open:
            return
        self.is_open = False
        with _keep_sigterm():
            self._lease.release()
        if not ray.is_initialized():
            shutil.rmtree(self._folder, ignore_errors=True)


def _silence() -> None:
    """Keep what Ray says of itself out of the terminal; what concerns a run, rlpipe says."""
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    # to stdout go the deaths of processes, whatever the log level
    stdout_deduplicator.skip_re = re.compile("")


def _use_token() -> None:
    """Show the cluster this machine's token, if it has one, as Ray does where it finds a cluster by itself."""
    with contextlib.suppress(ImportError):
        setup = importlib.import_module("ray._private.authentication.authentication_token_setup")
        setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


@contextlib.contextmanager
def _keep_sigterm() -> Iterator[None]:
    """Ray puts a handler of its own in place."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _check_reachable(address: str) -> None:
    """Refuse an address where no Ray answers in time."""
    started = time.monotonic()
    host, port = split_address(address)
    try:
        socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
    except TimeoutError as error:
        raise ConfigError(
            f"ray_address is {address}, which does not answer: given up after {CONNECT_SECONDS} s; is the host "
            "right, and does a firewall let this port through?"
        ) from error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(
            f"ray_address is {address}, which cannot be reached: {reason}; `ray start --head` on that machine starts "
            "Ray and prints the address"
        ) from error
    left = CONNECT_SECONDS - (time.monotonic() - started)
    # three attempts, a second apart
    environment = {**os.environ, "RAY_NUM_REDIS_GET_RETRIES": "3"}
    try:
        probe = subprocess.run(
            [sys.executable, "-c", _PROBE, address],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=max(1.0, left),
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ConfigError(
            f"ray_address is {address}, where something listens that does not answer as Ray does: given up after "
            f"{CONNECT_SECONDS} s"
        ) from error
    if probe.returncode:
        raise ConfigError(f"ray_address is {address}, which cannot be used: {_reason(probe.stderr)}")


def _reason(trace: str) -> str:
    """The one line that matters of what Ray wrote before it gave up."""
    if "InvalidAuthToken" in trace or "AuthenticationError" in trace:
        return (
            "the cluster asks for a token, and this machine has none or another one; copy ~/.ray/auth_token from the "
            "head's machine, and set RAY_AUTH_MODE=token on both"
        )
    lines = [line for line in trace.splitlines() if line.strip()]
    at = max(
        (index for index, line in enumerate(lines) if re.match(r"[\w.]+(Error|Exception|Exit)\b", line)), default=0
    )
    return _in_a_line(" ".join(lines[at:])) if lines else "it gave no reason"


def _in_a_line(error: object) -> str:
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= 400 else f"{words[:400]}..."
