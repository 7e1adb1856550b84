"""The connection to Ray: one started on this machine, or an existing cluster."""

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
from rlpipe.pipelines.child_processes import split_address
from rlpipe.user_files import loaded_modules

CONNECT_SECONDS = 20
"""How long a cluster may take to answer."""
_WRONG_TOKEN = "InvalidAuthToken"
_PROBE = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='error'); ray.shutdown()"
"""Run in another process, because a server that is not Ray blocks for minutes, and Ray prints a lot."""


class RayConnection:
    """This process's connection to Ray, without Ray's output. Several objects share it; the last one closes it.

    If the process is connected to Ray already, that connection is used, and stays open.

    Args:
        address: `HOST:PORT` of a cluster's head; by default Ray is started on this machine.
        cpus: for Ray on this machine, how many to divide among actors; there may be fewer cores. By default its own
            number, and Ray then keeps its logs where it always does.

    Raises:
        ConfigError: the cluster does not answer within `CONNECT_SECONDS`.
    """

    def __init__(self, address: str | None, cpus: int | None = None) -> None:
        self.is_open, self._folder = True, ""
        options: dict[str, Any] = {"address": address, "log_to_driver": False, "configure_logging": False}
        if ray.is_initialized():
            options = {}
            _check_same(address)
        elif address is not None:
            _silence()
            check_reachable(address)
        else:
            _silence()
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            options |= {"address": "local", "include_dashboard": False}
            if cpus is not None:
                # in other folders, the paths of its sockets may be longer than the system allows
                self._folder = tempfile.mkdtemp(prefix="rlpipe-ray-", dir="/tmp" if os.path.isdir("/tmp") else None)
                options |= {"num_cpus": cpus, "_temp_dir": self._folder}
        for module in loaded_modules():
            # other processes would not find the file of a user's algorithm
            ray.cloudpickle.register_pickle_by_value(module)
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
        """Disconnect, and stop Ray if it was started here."""
        if not self.is_open:
            return
        self.is_open = False
        with _keep_sigterm():
            self._lease.release()
        if not ray.is_initialized():
            shutil.rmtree(self._folder, ignore_errors=True)


def _silence() -> None:
    """Keep Ray's own messages out of the terminal; rlpipe reports what concerns a run."""
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    # Ray prints the deaths of processes to stdout at any log level
    stdout_deduplicator.skip_re = re.compile("")


@contextlib.contextmanager
def _keep_sigterm() -> Iterator[None]:
    """Restore the handler of SIGTERM, which Ray replaces."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _check_same(address: str | None) -> None:
    """Refuse another cluster than the one that this process is connected to."""
    now = ray.get_runtime_context().gcs_address
    # the host may have several names
    if address is not None and address.rpartition(":")[2] != now.rpartition(":")[2]:
        raise ConfigError(f"ray_address is {address}, and this process is connected to Ray at {now} already")


def check_reachable(address: str) -> None:
    """Refuse an address at which Ray does not answer in time, by a `ConfigError` that says why."""
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
    said = _probe(address, CONNECT_SECONDS - (time.monotonic() - started))
    if _WRONG_TOKEN in said and _use_token():
        said = _probe(address, CONNECT_SECONDS)
    if said:
        raise ConfigError(f"ray_address is {address}, which cannot be used: {_reason(said)}")


def _use_token() -> bool:
    """Send this machine's token to clusters from now on; returns whether it has one that was not used before."""
    try:
        setup = importlib.import_module("ray._private.authentication.authentication_token_setup")
    except ImportError:  # a Ray without tokens
        return False
    before = os.environ.get("RAY_AUTH_MODE")
    return bool(setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)) and before is None


def _probe(address: str, seconds: float) -> str:
    """What Ray prints if it cannot connect to a cluster; empty if it can. Taking longer is a `ConfigError`."""
    try:
        probe = subprocess.run(
            [sys.executable, "-c", _PROBE, address],
            # one attempt per second
            env={**os.environ, "RAY_NUM_REDIS_GET_RETRIES": "3"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=max(1.0, seconds),
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ConfigError(
            f"ray_address is {address}, where something listens that does not answer as Ray does: given up after "
            f"{CONNECT_SECONDS} s"
        ) from error
    return (probe.stderr or "it gave no reason") if probe.returncode else ""


def _reason(trace: str) -> str:
    """The line that matters in what Ray printed."""
    if _WRONG_TOKEN in trace:
        return (
            "the cluster asks for a token, and this machine has none or another one; copy ~/.ray/auth_token from the "
            "head's machine"
        )
    lines = [line for line in trace.splitlines() if line.strip()]
    at = max(
        (index for index, line in enumerate(lines) if re.match(r"[\w.]+(Error|Exception|Exit)\b", line)), default=0
    )
    return _in_a_line(" ".join(lines[at:]))


def _in_a_line(error: object) -> str:
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= 400 else f"{words[:400]}..."
