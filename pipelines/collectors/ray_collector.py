"""Collectors on Ray, on this machine or others: TorchRL's `RayCollector`, with rlpipe's collector in each actor."""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from tensordict import TensorDictBase
from torch import nn
from torchrl.collectors.distributed import RayCollector
from torchrl.envs import EnvBase

from rlpipe.errors import ConfigError, TrainingError
from rlpipe.pipelines.collectors.multi import RemoteCollectors, WorkerSetup
from rlpipe.pipelines.collectors.ray_connection import RayConnection
from rlpipe.pipelines.collectors.ray_placement import START_SECONDS, Places, Resources
from rlpipe.pipelines.collectors.ray_worker import WORKER, RayWorker, why_lost, worker_options

MOST_LOSSES = 3
"""How many times in a row, without a batch in between, lost collectors are replaced."""
_LOG = logging.getLogger("rlpipe")


class _RayActors(RemoteCollectors):
    """Collectors in actors of Ray: how they are called, and replaced when Ray loses them."""

    collected_frames: int
    collector_kwargs: list[dict[str, Any]]
    remote_collectors: list[Any]
    _create_env_fn: list[Callable[[], EnvBase]]
    _places: Places | None
    _is_started: bool
    _records_actions: bool
    _losses: int

    def call_each(self, method: str, arguments: Sequence[Any], workers: Sequence[int] | None = None) -> list[Any]:
        """See `RemoteCollectors`; a collector that is lost is replaced, and called again."""
        chosen = range(self.num_collectors) if workers is None else workers
        self._records_actions |= method == "environments.note_actions"
        asked = [self._ask(index, method, each) for index, each in zip(chosen, arguments, strict=True)]
        return [self._answer(index, method, *each) for index, *each in zip(chosen, arguments, asked, strict=True)]

    def _ask(self, index: int, method: str, arguments: Any) -> Any:
        return self.remote_collectors[index].obey.remote(method, *arguments)

    def _answer(self, index: int, method: str, arguments: Any, answer: Any) -> Any:
        while True:
            try:
                # Ray returns read-only arrays
                return copy.deepcopy(ray.get(answer))
            except RayTaskError as error:
                raise error.cause from None
            except RayError as error:
                if not self._is_started:
                    raise
                self._replace(index, error)
                answer = self._ask(index, method, arguments)

    def _replace_lost(self, error: Exception) -> None:
        """Replace every collector that no longer answers."""
        self._losses += 1
        if self._losses > MOST_LOSSES:
            raise TrainingError(f"collectors were lost {self._losses} times in a row: {why_lost(error)}") from error
        for index in range(self.num_collectors):
            try:
                ray.get(self._ask(index, "environments.kind", ()))
            except RayError as lost:
                self._replace(index, lost)

    def _replace(self, index: int, error: Exception) -> None:
        """Replace a lost collector by a new one, with new episodes; a `TrainingError` if Ray cannot start one."""
        who, why = f"collector {index} of {self.num_collectors}", why_lost(error)
        _LOG.warning("rlpipe: %s was lost (%s); starting another one in its place, with fresh episodes", who, why)
        until = time.monotonic() + START_SECONDS
        while True:
            self._start_again(index)
            try:
                self._prepare_again(index, max(0.0, until - time.monotonic()))
                break
            except GetTimeoutError:
                raise TrainingError(
                    f"{who} was lost ({why}), and Ray did not start another one within {START_SECONDS} s"
                ) from error
            except RayError as again:
                # Ray may take a while to notice that a machine is gone, and start it there again
                final = isinstance(again, RayTaskError) or getattr(again, "actor_init_failed", False)
                if final or time.monotonic() > until:
                    raise TrainingError(
                        f"{who} was lost ({why}), and so was the one in its place ({why_lost(again)})"
                    ) from error
                time.sleep(0.5)
        if self.asynchronous:
            self._resting = [index]
            self.update_policy_weights_()

    def _start_again(self, index: int) -> None:
        assert self._places is not None
        ray.kill(self.remote_collectors[index])
        self.add_collectors(  # type: ignore[attr-defined]
            [self._create_env_fn[index]], 1, None, [self.collector_kwargs[index]], [self._places.options_of(index)]
        )
        self.remote_collectors[index] = self.remote_collectors.pop()

    def _prepare_again(self, index: int, seconds: float) -> None:
        now = (self.collected_frames,)
        noted = [("environments.note_actions", ())] * self._records_actions
        calls = [*noted, ("restart", now), ("environments.synchronise", now)]
        ray.get([self._ask(index, method, each) for method, each in calls], timeout=seconds)


class _RayCollectors(_RayActors):
    """What `SyncRay` and `AsyncRay` share: starting, iterating and stopping."""

    def __init__(
        self,
        create_env_fn: Sequence[Callable[[], EnvBase]],
        policy: nn.Module,
        *,
        address: str | None = None,
        resources: Resources | None = None,
        **options: Any,
    ) -> None:
        setup = WorkerSetup(create_env_fn, policy, **options)
        self._prepare(setup)
        self._create_env_fn, self._iter = list(create_env_fn), -1
        self._is_started, self._records_actions, self._losses, self._places = False, False, 0, None
        count, resources = len(create_env_fn), resources or Resources()
        self._connection = RayConnection(address, max(1, math.ceil(count * resources.cpus)))
        try:
            self._places = Places(count, resources)
            with _starting():
                super().__init__(  # type: ignore[call-arg]
                    self._create_env_fn,
                    policy_factory=setup.policies(),
                    frames_per_batch=setup.frames_per_batch,
                    total_frames=setup.total_frames,
                    init_random_frames=0,
                    collector_class=RayWorker,
                    collector_kwargs=worker_options(setup),
                    remote_configs=[self._places.options_of(index) for index in range(count)],
                    sync=not self.asynchronous,
                    update_after_each_batch=True,
                    # `update_policy_weights_` sends them
                    weight_sync_schemes={},
                )
                self._weight_sync_initialized = True
                self.call("environments.kind")
        except BaseException:
            self._disconnect()
            raise
        self._is_started = True

    @property
    def position(self) -> tuple[int, int]:
        """Frames and batches collected so far; may be set before iterating."""
        return self.collected_frames, self._iter

    @position.setter
    def position(self, position: tuple[int, int]) -> None:
        self.collected_frames, self._iter = position

    def iterator(self) -> Iterator[TensorDictBase]:
        """Yield batch after batch, `[num_envs, T]`; each from one collector, if asynchronous.

        If a collector is lost, all collect the unfinished batch again.

        Raises:
            TrainingError: a collector failed, or was lost and could not be replaced.
        """
        if self.asynchronous:
            self.update_policy_weights_()
        frames = self.collected_frames
        while True:
            try:
                for batch in super().iterator():  # type: ignore[misc]
                    yield self._received(batch)
                    frames, self._losses = self.collected_frames, 0
                return
            except RayTaskError as error:
                raise error.cause from None
            except RayError as error:
                self.collected_frames = frames
                self._replace_lost(error)

    def _received(self, batch: TensorDictBase) -> TensorDictBase:
        index = int(batch.get(WORKER).flatten()[0])
        batch = batch.exclude("collector")
        if self.asynchronous:
            self._note_resting(index)
        else:
            # TorchRL stacks the collectors' batches
            batch = batch.flatten(0, 1)
        self._iter += 1
        return self._note_batch(batch)

    def shutdown(
        self,
        timeout: float | None = None,
        close_env: bool = True,
        raise_on_error: bool = True,
        shutdown_ray: bool = False,
    ) -> None:
        """Stop every collector, and Ray if it was started for them."""
        if self._connection.is_open and ray.is_initialized():
            super().shutdown(timeout)  # type: ignore[misc]
        self._disconnect()

    def _disconnect(self) -> None:
        if not self._connection.is_open:
            return
        if ray.is_initialized():
            for actor in getattr(self, "_remote_collectors", ()):
                ray.kill(actor)
            if self._places is not None:
                self._places.free()
        self._connection.close()


class SyncRay(_RayCollectors, RayCollector):
    """TorchRL's `RayCollector` over environments of `make_env`: all collect, then the learner learns from all.

    With one environment function, batches are those of a `SyncDataCollector`, to the bit. A collector that is lost,
    with its process or its machine, is replaced, and begins new episodes.

    Arguments are those of `SyncProcesses`, for collectors instead of processes, and two more.

    Args:
        address: `HOST:PORT` of a cluster's head; by default Ray is started on this machine, and stopped at the end.
        resources: of each collector; one core by default.

    Raises:
        ConfigError: Ray is not available, or has no room; or an environment cannot be made.
        TrainingError: also while collecting, if a collector fails, or is lost and cannot be replaced.
    """

    asynchronous = False


class AsyncRay(_RayCollectors, RayCollector):
    """TorchRL's asynchronous `RayCollector` over environments of `make_env`: each continues once its batch has arrived.

    A batch is from one collector, whose index is in `("collector", "worker")`; the policy that collected it may be
    older than the learner's, by the `staleness` of `metrics`. Arguments are those of `SyncRay`.
    """

    asynchronous = True


@contextlib.contextmanager
def _starting() -> Iterator[None]:
    """Explain why a collector does not start; without TorchRL's warning that this process has no policy."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The policy is not an nn.Module")
        try:
            yield
        except RayTaskError as error:
            raise error.cause from None
        except RayError as error:
            raise ConfigError(f"a collector could not be started: {why_lost(error)}") from error
