"""Collectors in processes of their own on this machine: TorchRL's, with collectors of ours in them."""

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
from rlpipe.pipelines.collectors.multi import Fleet, PolicyCopy, WorkerCollector
from rlpipe.pipelines.seeding import spawned

# the last is what TorchRL stumbles over when it stops the others
_LOST = (RuntimeError, EOFError, BrokenPipeError, ConnectionResetError, ValueError)


class _Worker(WorkerCollector):
    """A `WorkerCollector` that tells what it failed of through a queue, and ends its process without a traceback.

    Args:
        failures: takes the number of the collector and what went wrong.
        seeds: of the global generators of all workers.
    """

    def __init__(self, *arguments: Any, failures: Any, seeds: Sequence[int | None], **options: Any) -> None:
        if options["worker_idx"]:
            # what the environments of the first one warn of is enough
            warnings.simplefilter("ignore")
        super().__init__(*arguments, seed=seeds[options["worker_idx"]], **options)
        self._failures = failures

    def iterator(self) -> Iterator[TensorDictBase]:
        """Yield batch after batch."""
        try:
            yield from super().iterator()
        except Exception as error:  # whatever it is, the learner's process tells of it
            kind = "" if isinstance(error, RlpipeError) else f"{type(error).__name__}: "
            self._failures.put((self.worker_idx, f"{kind}{error}"))
            raise SystemExit(1) from None


class _Processes(Fleet):
    """What `SyncProcesses` and `AsyncProcesses` share: how workers are started, called, and told of when they fail."""

    procs: list[Any]
    pipes: list[Any]

    def __init__(
        self,
        create_env_fn: Sequence[Callable[[], EnvBase]],
        policy: nn.Module,
        *,
        frames_per_batch: int,
        total_frames: int,
        transforms: nn.Module | None = None,
        seed: int | None = None,
        device: str = "cpu",
        threads: int = 1,
    ) -> None:
        check_main_guard()
        count = len(create_env_fn)
        self._prepare(policy, count, transforms, device)
        self.procs = []
        self._failures = _get_mp_ctx().SimpleQueue()
        seeds = [seed if seed is None or not index else spawned(seed, index) for index in range(count)]
        options: dict[str, Any] = {
            "policy_factory": [PolicyCopy(policy, index) for index in range(count)],
            "collector_class": functools.partial(_Worker, failures=self._failures, seeds=seeds),
            "frames_per_batch": frames_per_batch,
            "total_frames": total_frames,
            "update_at_each_batch": True,
            "use_buffers": True,
            "num_threads": threads,
            "num_sub_threads": threads,
            "trust_policy": True,
            "auto_register_policy_transforms": False,
            "init_fn": _begin,
        }
        if not self.asynchronous:
            options["cat_results"] = 0
        before = torch.get_num_threads()
        try:
            with _starting_deaf():
                super().__init__(list(create_env_fn), **options)  # type: ignore[call-arg]
        except Exception as error:
            if any(unguarded(code) for _, code in self._dead()):
                raise TrainingError(NO_GUARD) from None
            raise self._without_trace(error) from error
        except BaseException:
            # a signal, for which TorchRL stops none of them; they may be busy with environments
            for process in self.procs:
                process.kill()
            raise
        finally:
            torch.set_num_threads(before)

    def iterator(self) -> Iterator[TensorDictBase]:
        """Yield batch after batch, `[num_envs, T]`; of one collector only, if asynchronous.

        Raises:
            TrainingError: a collector failed or died.
        """
        try:
            for batch in super().iterator():  # type: ignore[misc]
                yield self._arrived(batch)
        except _LOST as error:
            raise self._told(error) from error

    def update_policy_weights_(self, *_: Any, **__: Any) -> None:
        """Send the learner's policy to the collectors that are about to go on; TorchRL's loop calls it."""
        self._send_policy()

    def call_each(self, method: str, arguments: Sequence[Any], workers: Sequence[int] | None = None) -> list[Any]:
        """See `Fleet`."""
        chosen = range(self.num_collectors) if workers is None else workers
        try:
            for index, argument in zip(chosen, arguments, strict=True):
                self.pipes[index].send(((method, argument, {}), "cascade_execute"))
            answers = [self._recv_and_check(self.pipes[index])[0] for index in chosen]  # type: ignore[attr-defined]
        except _LOST as error:
            raise self._told(error) from error
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    def _told(self, error: Exception) -> Exception:
        """What became of a collector; the error itself, if none has failed."""
        if not self._failures.empty():
            index, words = self._failures.get()
            return TrainingError(f"collector {index} of {self.num_collectors} failed: {words}")
        # TorchRL's check forgets the processes that it has stopped
        found = re.search(r"worker (\d+) \(exit code (-?\d+)\)", str(error))
        dead = [(int(found[1]), int(found[2]))] if found else self._dead()
        if not dead:
            return error
        return TrainingError(self._obituary(*dead[0]))

    def _obituary(self, index: int, code: int) -> str:
        who = f"collector {index} of {self.num_collectors} died (exit code {code}) without a last message"
        if code >= 0:
            return f"{who}; it ended by itself, as an environment may that calls exit"
        return f"{who}; a negative code is the signal that killed it, -9 often means that memory ran out"

    def _without_trace(self, error: Exception) -> Exception:
        """What TorchRL says of a worker that could not be made, without the worker's traceback."""
        words = str(error).split("\n\nWorker traceback:")[0]
        if isinstance(error, RlpipeError):
            return type(error)(words)
        if dead := self._dead():
            words = self._obituary(*dead[0])
        return ConfigError(f"a collector could not be started: {words}")

    def _dead(self) -> list[tuple[int, int]]:
        """Which processes have gone, and their exit codes; first those that nobody stopped."""
        gone = []
        for index, process in enumerate(self.procs):
            with contextlib.suppress(ValueError):  # of one that TorchRL has put away
                process.join(timeout=0.5)
                if process.exitcode is not None:
                    gone.append((index, process.exitcode))
        return sorted(gone, key=lambda each: each[1] in (0, -signal.SIGTERM))

    def shutdown(self, timeout: float | None = None, close_env: bool = True, raise_on_error: bool = True) -> None:
        """Stop every collector, as the stock method of this name does."""
        threads = torch.get_num_threads()
        try:
            super().shutdown(timeout, close_env, raise_on_error)  # type: ignore[misc]
        finally:
            # TorchRL raises it
            torch.set_num_threads(threads)


class SyncProcesses(_Processes, MultiSyncCollector):
    """TorchRL's `MultiSyncCollector` over environments of ours: all collect, then the learner learns from all.

    With one environment function, batches are those of a `SyncDataCollector`, to the bit.

    Args:
        create_env_fn: one for each process, that makes its environment by `make_env`; all of the same size.
        policy: the learner's; each process has a copy, which is sent its weights before every batch.
        frames_per_batch: of all processes together.
        total_frames: to collect.
        transforms: of the learner's environment; their state is sent as well.
        seed: of each process's global generators; `None` leaves them.
        device: on which batches are wanted; in the processes, policies are on the CPU.
        threads: of PyTorch, in each process.

    Raises:
        ConfigError: an environment cannot be made.
        TrainingError: also while collecting, if a process failed or died.
    """

    asynchronous = False


class AsyncProcesses(_Processes, MultiAsyncCollector):
    """TorchRL's `MultiAsyncCollector` over environments of ours: each goes on as soon as its batch has arrived.

    A batch is one process's, with `("collector", "worker")` its number; the policy that collected it may be older than
    the learner's by the `staleness` of `metrics`. Arguments are those of `SyncProcesses`.
    """

    asynchronous = True

    @property
    def _queue_len(self) -> int:
        # with TorchRL's own, of one, a process that waits for room discards its batch after a second
        return self.num_collectors

    def _get_from_queue(self, timeout: float | None = None) -> Any:
        index, count, batch = super()._get_from_queue(timeout)
        self._comes_to_rest(index)
        return index, count, batch


def _begin() -> None:
    """What each process does first."""
    if not stay_with_parent():
        raise SystemExit(1)


class _Deaf(_ProcessNoWarnSpawn):
    """TorchRL's process, to which Ctrl-C never comes, not even before its own code runs."""

    def start(self) -> None:
        with interrupts_wait("spawn"):
            super().start()


@contextlib.contextmanager
def _starting_deaf() -> Iterator[None]:
    """Have TorchRL start `_Deaf` processes; this one hears Ctrl-C while it waits for them to be ready."""
    original = _multi_base._make_process_no_warn_cls
    _multi_base._make_process_no_warn_cls = lambda ctx: _Deaf if ctx.get_start_method() == "spawn" else original(ctx)
    try:
        yield
    finally:
        _multi_base._make_process_no_warn_cls = original
