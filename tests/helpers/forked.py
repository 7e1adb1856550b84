"""Processes as `python ...` starts them, in a hundredth of the time: forked from one that has imported everything.

`Python(*arguments)` does what `subprocess.Popen([sys.executable, *arguments])` does, and has its `pid`, `returncode`,
`poll`, `wait`, `communicate`, `send_signal` and `kill`. Only what is imported when cannot be seen in it, nor its
environment in `/proc`, which is that of the process it was forked from.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import functools
import gc
import importlib
import json
import multiprocessing
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from multiprocessing.context import ForkServerProcess, SpawnProcess
from pathlib import Path

PRELOADED = (
    "rlpipe.pipelines.session",
    "rlpipe.pipelines.algorithms.a2c",
    "rlpipe.pipelines.algorithms.dqn",
    "rlpipe.pipelines.algorithms.ppo",
    "rlpipe.pipelines.runs.loggers.loggers",
    "rlpipe.pipelines.render.player",
    "rlpipe.scripts.evaluate",
    "rlpipe.scripts.render",
    "rlpipe.scripts.report",
    "rlpipe.scripts.resume",
    "rlpipe.scripts.train",
    "gymnasium.envs.classic_control.cartpole",
    "torch.utils.tensorboard",
    "matplotlib.figure",
    "torch._dynamo",
)


class Python:
    """A Python process; `session` makes it the leader of a new one, as `start_new_session` does."""

    def __init__(self, *arguments, cwd=None, env=None, stdin=None, stdout=None, stderr=None, session=False) -> None:
        self.returncode, self._status = None, b""
        ours, files = [], []
        for number, given in enumerate((stdin, stdout, stderr)):
            if given == subprocess.PIPE:
                reads, writes = os.pipe()
                ours.append(os.fdopen(writes, "w") if number == 0 else os.fdopen(reads))
                files.append(reads if number == 0 else writes)
            else:
                ours.append(None)
                files.append(_open(number, given))
        self.stdin, self.stdout, self.stderr = ours
        self._end, theirs = socket.socketpair()
        request = {
            "arguments": list(map(str, arguments)),
            "cwd": os.fspath(cwd or os.getcwd()),
            "env": dict(os.environ if env is None else env),
            "session": session,
        }
        _send(_server()[0], json.dumps(request).encode(), [*files, theirs.fileno()])
        for file in {*files}:
            os.close(file)
        theirs.close()
        self.pid = int(self._line(300.0))

    def _line(self, timeout: float | None) -> bytes | None:
        """The next line that the server writes; nothing after `timeout`."""
        until = None if timeout is None else time.monotonic() + timeout
        while b"\n" not in self._status:
            left = None if until is None else max(0.0, until - time.monotonic())
            if not select.select([self._end], [], [], left)[0]:
                return None
            piece = self._end.recv(64)
            assert piece, "the server of processes has gone"
            self._status += piece
        line, _, self._status = self._status.partition(b"\n")
        return line

    def _wait(self, timeout: float | None) -> int | None:
        if self.returncode is None and (line := self._line(timeout)) is not None:
            self.returncode = int(line)
            self._end.close()
        return self.returncode

    def poll(self) -> int | None:
        return self._wait(0.0)

    def wait(self, timeout: float | None = None) -> int:
        if self._wait(timeout) is None:
            raise subprocess.TimeoutExpired("python", timeout)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str | None, str | None]:
        """What it wrote to the pipes, once it has ended."""
        until = None if timeout is None else time.monotonic() + timeout
        if self.stdin is not None:
            self.stdin.close()
        texts = [None, None]

        def read(number, pipe):
            with pipe:
                texts[number] = pipe.read()

        readers = [
            threading.Thread(target=read, args=each, daemon=True)
            for each in enumerate((self.stdout, self.stderr))
            if each[1] is not None and not each[1].closed
        ]
        for each in readers:
            each.start()
        for each in readers:
            each.join(None if until is None else max(0.0, until - time.monotonic()))
            if each.is_alive():
                raise subprocess.TimeoutExpired("python", timeout)
        self.wait(None if until is None else max(0.1, until - time.monotonic()))
        return tuple(texts)

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run(*arguments, timeout=300.0, **options) -> subprocess.CompletedProcess:
    """As `subprocess.run([sys.executable, *arguments], capture_output=True, text=True)`."""
    process = Python(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    try:
        out, err = process.communicate(timeout)
    except BaseException:
        process.kill()
        raise
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


@contextlib.contextmanager
def spawning_quickly() -> Iterator[None]:
    """Have multiprocessing fork what it spawns from a process that has imported everything.

    The process gets the same pickled payload, and imports none of what it needs anew.
    """
    multiprocessing.set_forkserver_preload(list(PRELOADED))
    spawned = SpawnProcess.__dict__["_Popen"]
    SpawnProcess._Popen = ForkServerProcess.__dict__["_Popen"]
    try:
        yield
    finally:
        SpawnProcess._Popen = spawned


def session_of(leader: int) -> list[str]:
    """The command lines of the processes of a session that live, whatever has become of their parents."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, _, session, *_ = (entry / "stat").read_text().rpartition(")")[2].split()
            command = (entry / "cmdline").read_text()
            # one that is just ending has none any more
            if int(session) == leader and state not in "ZX" and command:
                found.append(command)
    return found


def _open(number, given) -> int:
    if given is None:
        return os.dup(number)
    if given == subprocess.DEVNULL:
        return os.open(os.devnull, os.O_RDWR)
    return os.dup(given if isinstance(given, int) else given.fileno())


def _send(end: socket.socket, message: bytes, files: list[int]) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))]
    end.sendmsg([len(message).to_bytes(4, "big")], rights)
    end.sendall(message)


@functools.cache
def _server() -> tuple[socket.socket, subprocess.Popen]:
    """The process to fork from, which ends with this one."""
    ours, theirs = socket.socketpair()
    # unpinned, OpenBLAS and OpenMP would have threads, which a fork does not
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, __file__, str(theirs.fileno())]
    server = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment, stdin=subprocess.DEVNULL)
    theirs.close()
    return ours, server


def _requests(end: socket.socket) -> Iterator[tuple[dict, list[int]]]:
    """Commands and their files, until the process that sends them has gone."""
    while True:
        size, rights, *_ = end.recvmsg(4, socket.CMSG_SPACE(4 * 4))
        if not size:
            return
        files = array.array("i")
        files.frombytes(rights[0][2])
        message = b""
        while len(message) < int.from_bytes(size, "big"):
            message += end.recv(65536)
        yield json.loads(message), list(files)


def _serve(end: socket.socket) -> tuple[dict, list[int]] | None:
    """Fork a process for each request; returns in those alone, or when there is nothing more to do."""
    running: dict[int, int] = {}
    woken, wake = socket.socketpair()
    for each in (woken, wake):
        each.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests = _requests(end)
    while True:
        ready, *_ = select.select([end, woken], [], [])
        if woken in ready:
            woken.recv(4096)
            while running:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    break
                file = running.pop(pid)
                code = os.waitstatus_to_exitcode(status)
                # whoever asked for it may have gone
                with contextlib.suppress(BrokenPipeError):
                    os.write(file, b"%d\n" % code)
                os.close(file)
        if end in ready:
            if (request := next(requests, None)) is None:
                return None
            command, files = request
            pid = os.fork()
            if not pid:
                for each in (end, woken, wake):
                    each.close()
                for each in (*running.values(), files.pop()):
                    os.close(each)
                return command, files
            os.write(files[3], b"%d\n" % pid)
            running[pid] = files.pop()
            for each in files:
                os.close(each)


def _become(command: dict, files: list[int], path: list[str]) -> None:
    """Be the process that was asked for."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # the process to fork from may have been started where Ctrl-C was held back
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    if command["session"]:
        os.setsid()
    os.chdir(command["cwd"])
    os.environ.clear()
    os.environ.update(command["env"])
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = [*filter(None, paths), *(each for each in path if each not in paths)]


def _execute(first: str, *rest: str) -> None:
    """What the interpreter does with its arguments."""
    if first == "-m":
        sys.path.insert(0, os.getcwd())
        sys.argv = [*rest]
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.path.insert(0, "")
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), vars(sys.modules["__main__"]))
    else:
        sys.path.insert(0, os.path.dirname(os.path.abspath(first)))
        sys.argv = [first, *rest]
        runpy.run_path(first, run_name="__main__")


def _main() -> None:
    path = sys.path[1:]
    sys.path[:] = path
    for name in PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()
    # no test cuts the power
    os.fsync = os.fstat
    request = _serve(socket.socket(fileno=int(sys.argv[1])))
    if request is None:
        return
    _become(*request, path)
    code: object = 0
    try:
        _execute(*request[0]["arguments"])
    except SystemExit as stopped:
        code = stopped.code
        if not (code is None or isinstance(code, int)):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
        code = 1
    # all of an interpreter's end but to take its memory apart, which takes longest
    threading._shutdown()
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        traceback.print_exc()
        code = 120
    os._exit((code or 0) & 255)


if __name__ == "__main__":
    _main()
