"""The `async` backend: each environment in a worker process, which never outlives the run and never blocks it.

Workers import this module, so it must not import PyTorch.
"""

from __future__ import annotations

import contextlib
import time
import warnings
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AsyncVectorEnv
from gymnasium.vector.async_vector_env import AsyncState, _async_worker

from rlpipe.errors import TrainingError
from rlpipe.pipelines.child_processes import NO_GUARD, check_main_guard, interrupts_wait, stay_with_parent, unguarded
from rlpipe.warn_once import each_once, notice, send_to

_LOST = (EOFError, BrokenPipeError, ConnectionResetError)
_CLOSING_SECONDS = 5.0
"""How long workers may take to close their environments after another has failed, before they are killed."""
_POLL_SECONDS = 0.1
_NOTICE = "notice"


class _TextErrors:
    """A worker's error queue that sends errors as text, because many exceptions cannot be pickled or unpickled."""

    def __init__(self, queue: Any) -> None:
        self._queue = queue

    def put(self, failure: tuple[int, type[BaseException], object, str]) -> None:
        index, kind, message, trace = failure
        self._queue.put((index, kind.__name__, str(message), trace))


def _worker(
    index: int, make: Callable[[], Any], pipe: Any, parent_pipe: Any, memory: Any, queue: Any, *rest: Any
) -> None:
    """Gymnasium's worker, which ignores Ctrl-C (its parent stops it) and dies with its parent."""
    if not stay_with_parent():
        return
    errors: Any = _TextErrors(queue)
    send_to(lambda words: queue.put((index, _NOTICE, words, "")))
    if index:
        # the first worker's warnings are enough
        warnings.simplefilter("ignore")
    try:
        with warnings.catch_warnings():
            # the parent has shown these when it made one to read its spaces
            warnings.simplefilter("ignore")
            env = make()
    except Exception as error:  # the parent reports it
        parent_pipe.close()
        # the parent always sends a first message and waits for the answer
        pipe.recv()
        errors.put((index, type(error), error, ""))
        pipe.send((None, False))
        return
    try:
        with each_once():
            _async_worker(index, lambda: env, pipe, parent_pipe, memory, errors, *rest)
    except Exception as error:  # from closing; earlier errors are reported by `_async_worker`
        notice(f"rlpipe: an environment could not be closed: {type(error).__name__}: {error}")


class WorkerVectorEnv(AsyncVectorEnv):
    """Gymnasium's `AsyncVectorEnv`, where a worker that fails or dies raises one error that names it, and `spec`.

    Raises:
        TrainingError: from here, `reset` or `step`, if a worker fails or dies, or the main script has no main guard.
    """

    def __init__(self, env_fns: list[Callable[[], Any]], spec: EnvSpec | None = None, **options: Any) -> None:
        check_main_guard()
        self._steps, self.spec = 0, spec
        # Gymnasium's `_state` changes only after the last worker was asked, and Ctrl-C may come before that
        self._is_waiting = False
        try:
            with interrupts_wait(options.get("context")):
                self._or_name_the_lost(super().__init__, env_fns, worker=_worker, **options)
        except BaseException:
            if hasattr(self, "processes"):
                self.close(terminate=True)
            raise
        # of one that nobody closes, and that keeps the processes until then
        weakref.finalize(self, _kill, [*self.processes]).atexit = False

    def __del__(self) -> None:
        """Leave it to `_kill`: pipes may have been collected first, and their numbers may be another file's by now."""

    def reset_async(self, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None) -> None:
        self._is_waiting = True
        self._or_name_the_lost(super().reset_async, seed=seed, options=options)

    def reset_wait(self, timeout: float | None = None) -> Any:
        result = self._or_name_the_lost(super().reset_wait, timeout)
        self._is_waiting = False
        return result

    def step_async(self, actions: np.ndarray) -> None:
        self._steps += 1
        self._is_waiting = True
        self._or_name_the_lost(super().step_async, actions)

    def step_wait(self, timeout: float | None = None) -> Any:
        result = self._or_name_the_lost(super().step_wait, timeout)
        self._is_waiting = False
        return result

    def _or_name_the_lost(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        try:
            return call(*arguments, **options)
        except _LOST as error:
            self._state, self._is_waiting = AsyncState.DEFAULT, False
            dead = [index for index, process in enumerate(self.processes) if not _lives(process)]
            who = f"worker {dead[0]} of {self.num_envs}" if dead else f"one of {self.num_envs} workers"
            code = self.processes[dead[0]].exitcode if dead else None
            if any(unguarded(self.processes[index].exitcode) for index in dead):
                raise TrainingError(NO_GUARD) from None
            raise TrainingError(
                f"{who} died (exit code {code}) {self._when()}, without a last message; "
                "a negative code is the signal that killed it, -9 often means that memory ran out"
            ) from error

    def _raise_if_errors(self, successes: Iterable[bool]) -> None:
        if all(successes):
            return
        index, kind, message, _ = self.error_queue.get()
        while kind == _NOTICE:
            notice(message)
            index, kind, message, _ = self.error_queue.get()
        self._state, self._is_waiting = AsyncState.DEFAULT, False
        # `Checked` has put it in words already
        words = message if kind == TrainingError.__name__ else f"{kind}: {message}"
        raise TrainingError(f"worker {index} of {self.num_envs} failed {self._when()}; its last message: {words}")

    def _when(self) -> str:
        name = "its environment" if self.spec is None else f"its environment {self.spec.id}"
        return f"in step {self._steps} of {name}" if self._steps else f"before the first step of {name}"

    @each_once()
    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        """Stop the workers: by a message if they are idle, else by killing them."""
        started = [process for process in self.processes if process.pid is not None]
        if not terminate and not self._is_waiting and self._state is AsyncState.DEFAULT:
            self._ask_to_close(started)
        alive = _kill(started)
        for pipe in self.parent_pipes:
            pipe.close()
        # a killed worker may have written half a notice
        if not alive:
            self._show_notices()

    def _ask_to_close(self, started: list[Any]) -> None:
        healthy = all(process.is_alive() for process in started)
        until = time.monotonic() + _CLOSING_SECONDS
        for pipe in self.parent_pipes:
            with contextlib.suppress(OSError):
                pipe.send(("close", None))
        for process in started:
            # without a limit for healthy ones: an environment may write a log or a video when it is closed
            while process.is_alive() and (healthy or time.monotonic() < until):
                process.join(_POLL_SECONDS)
                if healthy:
                    # a worker waits for its notice to be read, if that is longer than the pipe
                    self._show_notices()

    def _show_notices(self) -> None:
        while not self.error_queue.empty():
            _, kind, words, _ = self.error_queue.get()
            if kind == _NOTICE:
                notice(words)


def _kill(processes: list[Any]) -> bool:
    """End processes, and say whether one of them was still alive."""
    # at interpreter exit they are gone already, and `kill` no longer works
    alive = [process for process in processes if process.is_alive()]
    for process in alive:
        process.kill()
    for process in processes:
        process.join()
    return bool(alive)


def _lives(process: Any) -> bool:
    # a process may take a moment to end after its pipe has closed
    process.join(timeout=0.5)
    return bool(process.is_alive())
