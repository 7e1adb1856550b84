"""Collectors in processes on this machine: TorchRL's multi-process collectors, with rlpipe's collector in each."""

from __future__ import annotations

import contextlib
import functools
import re
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import nn
from torchrl._utils import _get_mp_ctx, _ProcessNoWarnSpawn
from torchrl.collectors import MultiAsyncCollector, MultiSyncCollector, _multi_base
from torchrl.envs import EnvBase

from rlpipe.errors import ConfigError, RlpipeError, TrainingError
from rlpipe.pipelines.child_processes import NO_GUARD, check_main_guard, interrupts_wait, stay_with_parent, unguarded
from rlpipe.pipelines.collectors.multi import RemoteCollectors, WorkerSetup
from rlpipe.pipelines.collectors.worker import WorkerCollector

# TorchRL raises the last one when it stops the other processes
_LOST = (RuntimeError, EOFError, BrokenPipeError, ConnectionResetError, ValueError)


class _Worker(WorkerCollector):
    """A `WorkerCollector` that puts its index and error into `failures`, and ends its process without a traceback."""

    def __init__(self, *arguments: Any, failures: Any, seeds: Sequence[int | None], **options: Any) -> None:
        if options["worker_idx"]:
            # the first worker's warnings are enough
            warnings.simplefilter("ignore")
        super().__init__(*arguments, seed=seeds[options["worker_idx"]], **options)
        self._failures = failures

    def iterator(self) -> Iterator[TensorDictBase]:
        try:
            yield from super().iterator()
        except Exception as error:  # the learner's process reports it
            kind = "" if isinstance(error, RlpipeError) else f"{type(error).__name__}: "
            self._failures.put((self.worker_idx, f"{kind}{error}"))
            raise SystemExit(1) from None


class _Processes(RemoteCollectors):
    """What `SyncProcesses` and `AsyncProcesses` share: starting workers, calling them, and reporting their failures."""

    procs: list[Any]
    pipes: list[Any]

    def __init__(self, create_env_fn: Sequence[Callable[[], EnvBase]], policy: nn.Module, **options: Any) -> None:
        check_main_guard()
        setup = WorkerSetup(create_env_fn, policy, **options)
        self._prepare(setup)
        self.procs = []
        self._failures = _get_mp_ctx().SimpleQueue()
        stock_options: dict[str, Any] = {
            "policy_factory": setup.policies(),
            "collector_class": functools.partial(_Worker, failures=self._failures, seeds=setup.seeds()),
            "frames_per_batch": setup.frames_per_batch,
            "total_frames": setup.total_frames,
            "update_at_each_batch": True,
            "use_buffers": True,
            "num_threads": setup.threads,
            "num_sub_threads": setup.threads,
            "trust_policy": True,
            "auto_register_policy_transforms": False,
            "init_fn": _init_process,
        }
        if not self.asynchronous:
            stock_options["cat_results"] = 0
        self._start(list(create_env_fn), stock_options)

    def _start(self, create_env_fn: list[Any], options: dict[str, Any]) -> None:
        before = torch.get_num_threads()
        try:
            with _starting_uninterrupted():
                super().__init__(create_env_fn, **options)  # type: ignore[call-arg]
        except Exception as error:
            if any(unguarded(code) for _, code in self._dead()):
                raise TrainingError(NO_GUARD) from None
            raise self._start_error(error) from error
        except BaseException:
            # after a signal TorchRL stops none of them, and they may be busy
            for process in self.procs:
                process.kill()
            raise
        finally:
            torch.set_num_threads(before)

    def iterator(self) -> Iterator[TensorDictBase]:
        """Yield batch after batch, `[num_envs, T]`; each from one collector, if asynchronous."""
        try:
            for batch in super().iterator():  # type: ignore[misc]
                yield self._note_batch(batch)
        except _LOST as error:
            raise self._explained(error) from error

    def call_each(self, method: str, arguments: Sequence[Any], workers: Sequence[int] | None = None) -> list[Any]:
        chosen = range(self.num_collectors) if workers is None else workers
        try:
            for index, argument in zip(chosen, arguments, strict=True):
                self.pipes[index].send(((method, argument, {}), "cascade_execute"))
            answers = [self._recv_and_check(self.pipes[index])[0] for index in chosen]  # type: ignore[attr-defined]
        except _LOST as error:
            raise self._explained(error) from error
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    def _explained(self, error: Exception) -> Exception:
        """An error that says how a collector failed or died; `error` itself, if none did."""
        if not self._failures.empty():
            index, words = self._failures.get()
            return TrainingError(f"collector {index} of {self.num_collectors} failed: {words}")
        # TorchRL forgets the processes that it has stopped, but names one
        found = re.search(r"worker (\d+) \(exit code (-?\d+)\)", str(error))
        dead = [(int(found[1]), int(found[2]))] if found else self._dead()
        if not dead:
            return error
        return TrainingError(self._how_it_died(*dead[0]))

    def _how_it_died(self, index: int, code: int) -> str:
        who = f"collector {index} of {self.num_collectors} died (exit code {code}) without a last message"
        if code >= 0:
            return f"{who}; it ended by itself, as an environment may that calls exit"
        return f"{who}; a negative code is the signal that killed it, -9 often means that memory ran out"

    def _start_error(self, error: Exception) -> Exception:
        """TorchRL's error for a worker that could not be started, without the worker's traceback."""
        words = str(error).split("\n\nWorker traceback:")[0]
        if isinstance(error, RlpipeError):
            return type(error)(words)
        if dead := self._dead():
            words = self._how_it_died(*dead[0])
        return ConfigError(f"a collector could not be started: {words}")

    def _dead(self) -> list[tuple[int, int]]:
        """The processes that have ended, and their exit codes; first those that were not stopped."""
        ended = []
        for index, process in enumerate(self.procs):
            with contextlib.suppress(ValueError):  # TorchRL has closed it
                process.join(timeout=0.5)
                if process.exitcode is not None:
                    ended.append((index, process.exitcode))
        return sorted(ended, key=lambda each: each[1] in (0, -signal.SIGTERM))

    def shutdown(self, timeout: float | None = None, close_env: bool = True, raise_on_error: bool = True) -> None:
        """Stop every collector, as the stock method of this name does."""
        threads = torch.get_num_threads()
        try:
            super().shutdown(timeout, close_env, raise_on_error)  # type: ignore[misc]
        finally:
            # TorchRL increases it
            torch.set_num_threads(threads)


class SyncProcesses(_Processes, MultiSyncCollector):
    """TorchRL's `MultiSyncCollector` over environments of `make_env`: all collect, then the learner learns from all.

    With one environment function, batches are those of a `SyncDataCollector`, to the bit.

    Arguments are the fields of `WorkerSetup`.

    Raises:
        ConfigError: an environment cannot be made.
        TrainingError: also while collecting, if a process fails or dies.
    """

    asynchronous = False
    remakes = True


class AsyncProcesses(_Processes, MultiAsyncCollector):
    """TorchRL's `MultiAsyncCollector` over environments of `make_env`: each continues once its batch has arrived.

    A batch is from one process, whose index is in `("collector", "worker")`; the policy that collected it may be older
    than the learner's, by the `staleness` of `metrics`. Arguments are those of `SyncProcesses`.
    """

    asynchronous = True

    @property
    def _queue_len(self) -> int:
        # TorchRL's queue has room for one batch, and a process that waits for room discards its batch after a second
        return self.num_collectors

    def _get_from_queue(self, timeout: float | None = None) -> Any:
        index, count, batch = super()._get_from_queue(timeout)
        self._note_resting(index)
        return index, count, batch


def _init_process() -> None:
    if not stay_with_parent():
        raise SystemExit(1)


class _UninterruptedProcess(_ProcessNoWarnSpawn):
    """TorchRL's process, but Ctrl-C never reaches it, not even before its own code runs."""

    def start(self) -> None:
        with interrupts_wait("spawn"):
            super().start()


@contextlib.contextmanager
def _starting_uninterrupted() -> Iterator[None]:
    """Have TorchRL start `_UninterruptedProcess`es; Ctrl-C still reaches this process while it waits for them."""
    original = _multi_base._make_process_no_warn_cls
    _multi_base._make_process_no_warn_cls = lambda ctx: (
        _UninterruptedProcess if ctx.get_start_method() == "spawn" else original(ctx)
    )
    try:
        yield
    finally:
        _multi_base._make_process_no_warn_cls = original
