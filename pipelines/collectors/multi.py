"""What collectors in other processes have in common, wherever those run: the one inside, and the view from outside."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from tensordict import TensorDictBase
from torch import Tensor, nn
from torchrl.envs import EnvBase, Transform, TransformedEnv, VecNorm, VecNormV2

from rlpipe.errors import ConfigError
from rlpipe.pipelines.collectors.collector import SyncDataCollector
from rlpipe.pipelines.collectors.env_state import Environments, cut
from rlpipe.pipelines.envs import EnvConfig, make_env
from rlpipe.pipelines.seeding import GlobalRandom, spawned

_OF_COLLECTORS, _OF_MOMENTS = 0, 1
"""What the seeds are for that are derived from one; the second number of such a key is the index, or the frame."""
Payload = dict[str, Any]
"""What a collector is sent: NumPy arrays, numbers and bytes, which cost least to send."""


class WorkerCollector(SyncDataCollector):
    """The collector in a worker: made by TorchRL there, and called from outside between two batches.

    Args:
        create_env_fn: makes the environment.
        policy: none, for it is made by `policy_factory`.
        seed: of the process's global generators.
        options: TorchRL's.
    """

    def __init__(self, create_env_fn: Any, policy: Any = None, *, seed: int | None = None, **options: Any) -> None:
        if seed is not None:
            GlobalRandom().seed(seed)
        # of the runner, which keeps the first batch for good and wants each one in it: see `iterator`
        self._in_place = options.pop("return_same_td", False)
        super().__init__(create_env_fn, policy, **options)
        if not self.is_lean():
            raise ConfigError("collectors in other processes take environments of make_env and transforms of each step")
        self._environments = Environments(self)
        self._busy = 0.0

    def iterator(self) -> Iterator[TensorDictBase]:
        """Yield batch after batch; in the memory of the first one, if the runner has put that where all can read it."""
        batches, kept = super().iterator(), None
        while True:
            self.env.base_env.tell_successes()
            started = time.perf_counter()
            batch = next(batches)
            if self._in_place:
                kept = batch if kept is None else kept.copy_(batch)
                batch = kept
            self._busy = time.perf_counter() - started
            yield batch

    def receive(self, payload: Payload) -> None:
        """Take over what `make_payload` made of the learner's policy."""
        load_arrays(self.policy, payload["policy"])
        load_arrays(self.env.transform, payload["transforms"])
        if payload["streams"] is not None:
            set_streams(self.policy, payload["streams"])

    def report(self) -> dict[str, Any]:
        """After a batch: the seconds that it took, successes, and where the policy's random streams are now."""
        successes = [success for _, _, success in self.env.base_env.take_successes()]
        return {"busy": self._busy, "successes": successes, "streams": get_streams(self.policy)}

    def kind(self) -> str:
        """How the environments are kept in checkpoints, see `Environments`."""
        return self._environments.kind

    def note_actions(self) -> None:
        """See `Environments`."""
        self._environments.note_actions()

    def synchronise(self, frames: int | None) -> None:
        """See `Environments`."""
        self._environments.synchronise(frames)

    def begin_anew(self, frames: int) -> None:
        """Reset environments and random streams, by seeds that follow from their first ones and a frame count."""
        self.env.base_env.reseed(frames)
        self.reset()
        for generator in generators_of(self.policy):
            generator.manual_seed(spawned(generator.initial_seed(), _OF_MOMENTS, frames))

    def capture(self) -> dict[str, Any]:
        """Environments and random streams, for a checkpoint."""
        random = GlobalRandom().state_dict()
        return {
            "environments": self._environments.state_dict(),
            "streams": get_streams(self.policy),
            "global_random": random,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a `capture`."""
        self._environments.load_state_dict(state["environments"])
        set_streams(self.policy, state["streams"])
        GlobalRandom().load_state_dict(state["global_random"])


class Fleet:
    """Collectors in other processes, seen from the learner's: mixed into TorchRL's classes, which run them."""

    asynchronous: bool
    """Whether a batch is one collector's, and the others go on meanwhile."""
    num_collectors: int
    """How many there are."""
    successes: list[float]
    """Of the episodes that ended in the last batch, as far as their environments tell."""
    _frames: int
    _iter: int

    def _prepare(self, policy: nn.Module, count: int, transforms: nn.Module | None, device: str) -> None:
        self.num_collectors = count
        self._learner, self._batch_device = policy, device
        self.transforms = nn.Module() if transforms is None else transforms
        on_cpu = all(generator.device.type == "cpu" for generator in generators_of(policy))
        # so that one collector draws on where the learner stopped, and the other way round
        self._passes_streams = on_cpu and not self.asynchronous
        self._resting: Sequence[int] = range(count)
        self._round, self._sent, self._staleness = 0, [0] * count, 0
        self._busy = 0.0
        self.successes = []

    def call_each(self, method: str, arguments: Sequence[Any], workers: Sequence[int] | None = None) -> list[Any]:
        """Call a method of the `WorkerCollector`s, all at once.

        Args:
            method: its name.
            arguments: of each, a tuple.
            workers: numbers of the collectors; by default all.

        Returns:
            What each returned.
        """
        raise NotImplementedError

    def call(self, method: str, *arguments: Any, workers: Sequence[int] | None = None) -> list[Any]:
        """The same with the same arguments for each."""
        count = self.num_collectors if workers is None else len(workers)
        return self.call_each(method, [arguments] * count, workers)

    def _send_policy(self) -> None:
        """Send the learner's policy to the collectors that rest."""
        payload = make_payload(self._learner, self.transforms, None)
        each = [(payload,)] * len(self._resting)
        if self._passes_streams:
            each[0] = ({**payload, "streams": get_streams(self._learner)},)
        self.call_each("receive", each, self._resting)
        for index in self._resting:
            self._sent[index] = self._round

    def _comes_to_rest(self, index: int) -> None:
        """Take note of which asynchronous collector has delivered, and now waits for a policy.

        It is asked before it goes on: later it would tell of its next batch, or not at all.
        """
        self._resting, self._staleness = [index], self._round - self._sent[index]
        self._note_successes(self.call("report", workers=self._resting))

    def _note_successes(self, reports: Sequence[dict[str, Any]]) -> None:
        self.successes = [success for report in reports for success in report["successes"]]

    def _arrived(self, batch: TensorDictBase) -> TensorDictBase:
        """Take note of a batch."""
        if self.asynchronous:
            batch.set(("collector", "worker"), torch.full(batch.shape, self._resting[0]))
        else:
            reports = self.call("report")
            self._note_successes(reports)
            self._busy = sum(report["busy"] for report in reports) / self.num_collectors
            if self._passes_streams:
                set_streams(self._learner, reports[0]["streams"])
        self._round += 1
        return batch if self._batch_device == "cpu" else batch.to(self._batch_device)

    def env_state(self) -> FleetState:
        """The environments as a component of checkpoints."""
        return FleetState(self)

    def metrics(self, seconds: float) -> dict[str, float]:
        """Of the last batch.

        Args:
            seconds: that collecting it and learning from it took.

        Returns:
            `collectors_waiting`, the share of these seconds in which a collector waited, the mean over collectors; or
            `staleness`, how many batches the learner had learned from since the policy was sent that collected it.
        """
        if self.asynchronous:
            return {"staleness": float(self._staleness)}
        return {"collectors_waiting": max(0.0, 1 - self._busy / seconds)}

    @property
    def position(self) -> tuple[int, int]:
        """Frames and batches collected so far; may be set before iterating."""
        return self._frames, self._iter

    @position.setter
    def position(self, position: tuple[int, int]) -> None:
        self._frames, self._iter = position


def make_payload(policy: nn.Module, transforms: nn.Module, streams: list[np.ndarray] | None) -> Payload:
    """What a worker needs to act as `policy` does now.

    Args:
        policy: the learner's.
        transforms: of its environment.
        streams: where the policy's random streams are to go on; `None` leaves them.
    """
    return {"policy": arrays_of(policy), "transforms": arrays_of(transforms), "streams": streams}


def arrays_of(module: nn.Module) -> dict[str, Any]:
    """A module's `state_dict` with NumPy arrays for tensors."""
    state = module.state_dict()
    return {key: value.cpu().numpy() if isinstance(value, Tensor) else value for key, value in state.items()}


def load_arrays(module: nn.Module, arrays: dict[str, Any]) -> None:
    """Take over what `arrays_of` another such module gave."""
    module.load_state_dict(
        {key: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for key, value in arrays.items()}
    )


def generators_of(policy: nn.Module) -> list[torch.Generator]:
    """The generators that a policy's modules hold, each once, in the modules' order."""
    held = [value for module in policy.modules() for value in vars(module).values()]
    return list({id(value): value for value in held if isinstance(value, torch.Generator)}.values())


def get_streams(policy: nn.Module) -> list[np.ndarray]:
    """Where the policy's generators are."""
    return [generator.get_state().numpy() for generator in generators_of(policy)]


def set_streams(policy: nn.Module, states: Sequence[np.ndarray]) -> None:
    """Put the policy's generators where `get_streams` found them."""
    for generator, state in zip(generators_of(policy), states, strict=True):
        generator.set_state(torch.from_numpy(np.array(state)))


class PolicyCopy:
    """Makes the policy of a collector: on the CPU, with random streams of its own.

    The first collector's are the learner's, so that one collector alone acts as one in this process would.

    Args:
        policy: the learner's.
        index: of the collector.
    """

    def __init__(self, policy: nn.Module, index: int) -> None:
        elsewhere = [generator for generator in generators_of(policy) if generator.device.type != "cpu"]
        instead = {id(each): torch.Generator().manual_seed(each.initial_seed()) for each in elsewhere}
        self._policy, self._index = copy.deepcopy(policy, instead).cpu(), index

    def __call__(self) -> nn.Module:
        if self._index:
            for generator in generators_of(self._policy):
                generator.manual_seed(spawned(generator.initial_seed(), _OF_COLLECTORS, self._index))
        return self._policy


class EnvCopy:
    """Makes the environment of a collector: its share of the run's environments, with seeds of their own.

    Args:
        config: of the share.
        seed: of the run's environments; the first collector's is this one.
        transforms: of the run.
        index: of the collector.
    """

    def __init__(self, config: EnvConfig, seed: int | None, transforms: Iterable[Transform], index: int) -> None:
        self._config, self.transforms = config, [transform.clone() for transform in transforms]
        self._seed = seed if seed is None or not index else spawned(seed, _OF_COLLECTORS, index)

    def __call__(self) -> EnvBase:
        return make_env(self._config, seed=self._seed, transforms=self.transforms)


def shares(config: EnvConfig, env: TransformedEnv, collectors: int) -> list[Callable[[], EnvBase]]:
    """What makes each collector's environment, for `num_envs` of `config` in all.

    Args:
        config: of all environments.
        env: one like those to make, with the run's seed and transforms.
        collectors: how many there are; they divide `num_envs`.

    Raises:
        ConfigError: a transform is a running normalisation.
    """
    for each in env.transform:
        if isinstance(each, (VecNorm, VecNormV2)):
            raise ConfigError(
                f"{type(each).__name__} would have other statistics in each collector process; collect in one process, "
                "or use ObservationNorm"
            )
    share = replace(config, num_envs=config.num_envs // collectors)
    return [EnvCopy(share, env.base_env.first_seed, env.transform, index) for index in range(collectors)]


class FleetState:
    """The environments of collectors in other processes, as a component of checkpoints: see `Environments`.

    Asynchronous collectors are never at rest, so theirs are not in checkpoints: a resumed run begins fresh episodes,
    by seeds that follow from the frames collected.

    Args:
        fleet: the collectors.
    """

    def __init__(self, fleet: Any) -> None:
        self._fleet = fleet
        self.kind: str = "synchronised" if fleet.asynchronous else fleet.call("kind")[0]
        self.captured = self.kind == "captured"

    def note_actions(self) -> None:
        """See `Environments`; nothing to do for asynchronous collectors."""
        if not self._fleet.asynchronous:
            self._fleet.call("note_actions")

    def cut(self, batch: TensorDictBase) -> None:
        """See `Environments`; nothing to do for asynchronous collectors."""
        if not self.captured and not self._fleet.asynchronous:
            cut(batch)

    def synchronise(self, frames: int | None) -> None:
        """See `Environments`; nothing to do for asynchronous collectors."""
        if not self.captured and not self._fleet.asynchronous:
            self._fleet.call("synchronise", frames)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        frames, iterations = self._fleet.position
        collectors = [] if self._fleet.asynchronous else self._fleet.call("capture")
        return {"kind": self.kind, "frames": frames, "iterations": iterations, "collectors": collectors}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`.

        Raises:
            ValueError: it is a state of other collectors.
        """
        if state["kind"] != self.kind:
            raise ValueError(f"environments were {state['kind']}, and are {self.kind} now")
        for name, least in (("frames", 0), ("iterations", -1)):
            if type(state[name]) is not int or state[name] < least:
                raise ValueError("frames and iterations are expected to be whole numbers")
        self._fleet.position = state["frames"], state["iterations"]
        if self._fleet.asynchronous:
            if state["frames"]:
                self._fleet.call("begin_anew", state["frames"])
            return
        if not isinstance(state["collectors"], list) or len(state["collectors"]) != self._fleet.num_collectors:
            raise ValueError(f"expected the states of {self._fleet.num_collectors} collectors")
        self._fleet.call_each("restore", [(each,) for each in state["collectors"]])
