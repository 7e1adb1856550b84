"""Collectors in other processes, as the learner's process sees them, on this machine or on Ray."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import nn
from torchrl.envs import EnvBase

from rlpipe.errors import ConfigError
from rlpipe.pipelines.collectors.env_state import cut, position_in
from rlpipe.pipelines.collectors.worker import PolicyCopy, generators_of, get_streams, make_payload, set_streams
from rlpipe.pipelines.envs.infos.log import InfoReport, joined
from rlpipe.pipelines.envs.normalization.moments import Moments, moments_of
from rlpipe.pipelines.seeding import spawned


@dataclass(frozen=True)
class WorkerSetup:
    """What collectors in other processes are made from.

    Args:
        create_env_fn: one function for each process, which makes its environments by `make_env`; all of the same size.
        policy: the learner's; each process has a copy, which gets its weights before every batch.
        frames_per_batch: of all processes together.
        total_frames: to collect.
        transforms: of the learner's environment; their state is sent as well.
        seed: of each process's global generators; `None` leaves them as they are.
        device: where batches go; in the processes, policies are on the CPU.
        threads: of PyTorch, in each process.
    """

    create_env_fn: Sequence[Callable[[], EnvBase]]
    policy: nn.Module
    _: KW_ONLY
    frames_per_batch: int
    total_frames: int
    transforms: nn.Module | None = None
    seed: int | None = None
    device: str = "cpu"
    threads: int = 1

    def policies(self) -> list[PolicyCopy]:
        """Functions that make the policy of each collector."""
        return [PolicyCopy(self.policy, index) for index in range(len(self.create_env_fn))]

    def seeds(self) -> list[int | None]:
        """Of the global generators of each collector's process."""
        seed = self.seed
        return [seed if seed is None or not index else spawned(seed, index) for index in range(len(self.create_env_fn))]


class RemoteCollectors:
    """Collectors in other processes: a mixin for the classes of TorchRL that run them."""

    asynchronous: bool
    """Whether a batch is one collector's, while the others continue."""
    num_collectors: int
    """How many there are."""
    remakes: bool = False
    """Whether they can make their environments anew, with other arguments."""
    infos: InfoReport
    """What infos reported in the last batch."""
    _frames: int
    _iter: int

    def _prepare(self, setup: WorkerSetup) -> None:
        count = self.num_collectors = len(setup.create_env_fn)
        self._learner, self._batch_device = setup.policy, setup.device
        self.transforms = nn.Module() if setup.transforms is None else setup.transforms
        on_cpu = all(generator.device.type == "cpu" for generator in generators_of(setup.policy))
        # a single collector then draws what a collector in this process would
        self._passes_streams = on_cpu and not self.asynchronous
        self._resting: Sequence[int] = range(count)
        self._round, self._sent, self._staleness = 0, [0] * count, 0
        self._busy_seconds = 0.0
        self.infos = joined([])

    def call_each(self, method: str, arguments: Sequence[Any], workers: Sequence[int] | None = None) -> list[Any]:
        """Call a method of the `WorkerCollector`s, all at the same time; returns what each returned.

        Args:
            method: its name, which may be of one of their attributes: `environments.kind`.
            arguments: for each collector, a tuple.
            workers: indices of the collectors; by default all.
        """
        raise NotImplementedError

    def call(self, method: str, *arguments: Any, workers: Sequence[int] | None = None) -> list[Any]:
        """`call_each` with the same arguments for all."""
        count = self.num_collectors if workers is None else len(workers)
        return self.call_each(method, [arguments] * count, workers)

    def update_policy_weights_(self, *_: Any, **__: Any) -> None:
        """Send the learner's policy to the collectors that wait for it; TorchRL's loop calls this."""
        payload = make_payload(self._learner, self.transforms, None)
        each = [(payload,)] * len(self._resting)
        if self._passes_streams:
            each[0] = ({**payload, "streams": get_streams(self._learner)},)
        self.call_each("receive", each, self._resting)
        for index in self._resting:
            self._sent[index] = self._round

    def _note_resting(self, index: int) -> None:
        """Note which asynchronous collector has delivered a batch, and waits for a policy.

        Its report is read before it continues: later it would be about its next batch.
        """
        self._resting, self._staleness = [index], self._round - self._sent[index]
        reports = self.call("report", workers=self._resting)
        self._note_infos(reports)
        self.merge_statistics(reports)

    def merge_statistics(self, reports: Sequence[dict[str, Any]] | None = None) -> None:
        """Add to the learner's running statistics what collectors have seen; by default, they are asked."""
        found = moments_of(self.transforms)
        if not found:
            return
        reports = self.call("statistics") if reports is None else reports
        for index, moments in enumerate(found):
            if self.num_collectors == 1:
                # to the bit what this process would have
                moments.load(reports[0]["known"][index])
                continue
            for report in reports:
                moments.add(Moments(*report["news"][index]))

    def _note_infos(self, reports: Sequence[dict[str, Any]]) -> None:
        self.infos = joined(report["infos"] for report in reports)

    def _note_batch(self, batch: TensorDictBase) -> TensorDictBase:
        """Read the reports about a batch; returns it on the device that was asked for."""
        if self.asynchronous:
            batch.set(("collector", "worker"), torch.full(batch.shape, self._resting[0]))
        else:
            reports = self.call("report")
            self._note_infos(reports)
            self.merge_statistics(reports)
            self._busy_seconds = sum(report["busy"] for report in reports) / self.num_collectors
            if self._passes_streams:
                set_streams(self._learner, reports[0]["streams"])
        self._round += 1
        return batch if self._batch_device == "cpu" else batch.to(self._batch_device)

    def env_state(self) -> RemoteEnvState:
        """The environments as a component of checkpoints."""
        return RemoteEnvState(self)

    def metrics(self, seconds: float) -> dict[str, float]:
        """Of the last batch, of which collecting and learning took `seconds`.

        `collectors_waiting` is the share of these seconds in which a collector waited, the mean over collectors. Of
        asynchronous ones there is `staleness`: how many batches the learner had learned from since it sent the policy
        that collected this one.
        """
        if self.asynchronous:
            return {"staleness": float(self._staleness)}
        return {"collectors_waiting": max(0.0, 1 - self._busy_seconds / seconds)}

    @property
    def position(self) -> tuple[int, int]:
        """Frames and batches collected so far; may be set before iterating."""
        return self._frames, self._iter

    @position.setter
    def position(self, position: tuple[int, int]) -> None:
        self._frames, self._iter = position


class RemoteEnvState:
    """The environments of collectors in other processes, as a component of checkpoints: see `LocalEnvState`.

    Asynchronous collectors never pause, so checkpoints do not hold their environments, and nothing is done to them: a
    resumed run begins new episodes, with seeds derived from the frames collected.
    """

    def __init__(self, collectors: RemoteCollectors) -> None:
        self._collectors, self._is_asynchronous = collectors, collectors.asynchronous
        self.kind: str = "synchronised" if collectors.asynchronous else collectors.call("environments.kind")[0]
        self.captured = self.kind == "captured"

    @property
    def env_kwargs(self) -> dict[str, Any]:
        """The present arguments of the environments."""
        self._check_remakes()
        found: dict[str, Any] = self._collectors.call("environments.env_kwargs")[0]
        return found

    def change(self, env_kwargs: dict[str, Any]) -> None:
        """Make the environments anew; see `LocalEnvState.change`."""
        self._check_remakes()
        self._collectors.call("environments.change", env_kwargs)
        # the observations of these resets
        self._collectors.merge_statistics()

    def _check_remakes(self) -> None:
        if not self._collectors.remakes:
            raise ConfigError(
                f"{type(self._collectors).__name__} cannot change the arguments of its environments; collectors "
                "'local' and 'processes' can, if they are not asynchronous"
            )

    def note_actions(self) -> None:
        if not self._is_asynchronous:
            self._collectors.call("environments.note_actions")

    def cut(self, batch: TensorDictBase) -> None:
        if not self.captured and not self._is_asynchronous:
            cut(batch)

    def synchronise(self, frames: int | None) -> None:
        if not self.captured and not self._is_asynchronous:
            self._collectors.call("environments.synchronise", frames)
            # the observations of these resets
            self._collectors.merge_statistics()

    def state_dict(self) -> dict[str, Any]:
        frames, iterations = self._collectors.position
        states = [] if self._is_asynchronous else self._collectors.call("capture")
        return {"kind": self.kind, "frames": frames, "iterations": iterations, "collectors": states}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`; one of other collectors is a `ValueError`."""
        self._collectors.position = position_in(state, self.kind)
        if self._is_asynchronous:
            if state["frames"]:
                self._collectors.call("restart", state["frames"])
            return
        states, count = state["collectors"], self._collectors.num_collectors
        if not isinstance(states, list) or len(states) != count:
            raise ValueError(f"expected the states of {count} collectors")
        self._collectors.call_each("restore", [(each,) for each in states])
