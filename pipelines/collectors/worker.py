"""The collector inside a worker process, and what it is made from: its policy, its environments, its messages."""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from tensordict import TensorDictBase
from torch import Tensor, nn
from torchrl.envs import EnvBase, TransformedEnv, VecNorm, VecNormV2

from rlpipe.errors import ConfigError
from rlpipe.modules import OrnsteinUhlenbeck
from rlpipe.pipelines.collectors.collector import SyncDataCollector
from rlpipe.pipelines.collectors.env_state import LocalEnvState
from rlpipe.pipelines.envs import EnvConfig, make_env
from rlpipe.pipelines.envs.normalization.moments import moments_of
from rlpipe.pipelines.seeding import GlobalRandom, spawned

_BY_COLLECTOR, _BY_FRAMES = 0, 1
"""First number of the key that derives a seed from another; the second is the collector's index, or a frame count."""
Payload = dict[str, Any]
"""A message to a collector: NumPy arrays, numbers and bytes, which are the cheapest to send."""
Streams = list[np.ndarray | None]
"""The states of a policy's generators, then what its noise carries from step to step."""


class WorkerCollector(SyncDataCollector):
    """The collector in a worker process: TorchRL makes it there, and the learner calls it between two batches.

    TorchRL's `policy_factory` makes the policy; `seed` is of the process's global generators.
    """

    def __init__(self, create_env_fn: Any, policy: Any = None, *, seed: int | None = None, **options: Any) -> None:
        if seed is not None:
            GlobalRandom().seed(seed)
        # TorchRL's runner shares the memory of the first batch and reads every batch from it: see `iterator`
        self._in_place = options.pop("return_same_td", False)
        super().__init__(functools.partial(_keeping_news, create_env_fn), policy, **options)
        if not self.is_lean():
            raise ConfigError("collectors in other processes take environments of make_env and transforms of each step")
        self.environments = LocalEnvState(self)
        self._busy_seconds = 0.0

    def iterator(self) -> Iterator[TensorDictBase]:
        """Yield batch after batch; in the memory of the first one, if TorchRL's runner shares that."""
        batches, kept = super().iterator(), None
        while True:
            self.env.base_env.infos.start()
            started = time.perf_counter()
            batch = next(batches)
            if self._in_place:
                kept = batch if kept is None else kept.copy_(batch)
                batch = kept
            self._busy_seconds = time.perf_counter() - started
            yield batch

    def receive(self, payload: Payload) -> None:
        """Load what `make_payload` made of the learner's policy."""
        streams = payload["streams"]
        # what noise carries is of the environments here
        streams = get_streams(self.policy) if streams is None else streams
        load_arrays(self.policy, payload["policy"])
        load_arrays(self.env.transform, payload["transforms"])
        for moments in moments_of(self.env.transform):
            moments.add_news()
        set_streams(self.policy, streams)

    def report(self) -> dict[str, Any]:
        """Of the last batch: the seconds it took, its infos, and the state of the policy's generators after it."""
        infos, streams = self.env.base_env.infos.take(), get_streams(self.policy)
        return {"busy": self._busy_seconds, "infos": infos, "streams": streams, **self.statistics()}

    def statistics(self) -> dict[str, Any]:
        """Running statistics, of everything (`known`) and of what was seen since the last call (`news`)."""
        found = moments_of(self.env.transform)
        return {"known": [tuple(each.now) for each in found], "news": [tuple(each.take_news()) for each in found]}

    def restart(self, frames: int) -> None:
        """Reset environments and generators, by seeds derived from their first ones and a frame count."""
        self.env.base_env.seeds.derive(frames)
        for moments in moments_of(self.env.transform):
            moments.keep_news()
        self.reset()
        for generator in generators_of(self.policy):
            generator.manual_seed(spawned(generator.initial_seed(), _BY_FRAMES, frames))

    def capture(self) -> dict[str, Any]:
        """Environments, random generators and statistics that were not yet reported, for a checkpoint."""
        found = moments_of(self.env.transform)
        return {
            "environments": self.environments.state_dict(),
            "streams": get_streams(self.policy),
            "global_random": GlobalRandom().state_dict(),
            **({"news": [list(each.news) for each in found if each.news]} if found else {}),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a `capture`."""
        self.environments.load_state_dict(state["environments"])
        set_streams(self.policy, state["streams"])
        GlobalRandom().load_state_dict(state["global_random"])
        for moments, news in zip(moments_of(self.env.transform), state.get("news", ()), strict=True):
            moments.keep_news(news)


def _keeping_news(create_env_fn: Callable[..., EnvBase], **options: Any) -> EnvBase:
    """Make environments whose running statistics keep what is new, beginning with the first reset."""
    env = create_env_fn(**options)
    for moments in moments_of(getattr(env, "transform", nn.Module())):
        moments.keep_news()
    return env


def make_payload(policy: nn.Module, transforms: nn.Module, streams: Streams | None) -> Payload:
    """What a worker needs to act as `policy` does now; if `streams` is `None`, its own stay as they are."""
    return {"policy": arrays_of(policy), "transforms": arrays_of(transforms), "streams": streams}


def arrays_of(module: nn.Module) -> dict[str, Any]:
    """A module's `state_dict` with NumPy arrays for tensors."""
    return {key: _as_array(value) for key, value in module.state_dict().items()}


def _as_array(value: Any) -> Any:
    if isinstance(value, dict):
        # the extra state of a module
        return {key: _as_array(each) for key, each in value.items()}
    return value.cpu().numpy() if isinstance(value, Tensor) else value


def load_arrays(module: nn.Module, arrays: dict[str, Any]) -> None:
    """Load what `arrays_of` returned for another such module."""
    module.load_state_dict({key: _as_tensor(value) for key, value in arrays.items()})


def _as_tensor(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_tensor(each) for key, each in value.items()}
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


def generators_of(policy: nn.Module) -> list[torch.Generator]:
    """The generators that a policy's modules hold, each once, in the modules' order."""
    held = [value for module in policy.modules() for value in vars(module).values()]
    return list({id(value): value for value in held if isinstance(value, torch.Generator)}.values())


def get_streams(policy: nn.Module) -> Streams:
    """What the policy draws with, and what its noise carries."""
    carried = [_as_array(module.carried) for module in _carriers_of(policy)]
    return [*(generator.get_state().numpy() for generator in generators_of(policy)), *carried]


def set_streams(policy: nn.Module, states: Sequence[np.ndarray | None]) -> None:
    """Set the policy's generators and noise to what `get_streams` returned."""
    generators, carriers = generators_of(policy), _carriers_of(policy)
    if len(states) != len(generators) + len(carriers):
        raise ValueError(f"there are {len(states)} streams, expected {len(generators) + len(carriers)}")
    values: list[Any] = [None if state is None else torch.from_numpy(np.array(state)) for state in states]
    for generator, value in zip(generators, values, strict=False):
        generator.set_state(value)
    for module, value in zip(carriers, values[len(generators) :], strict=True):
        module.carried = value


def _carriers_of(policy: nn.Module) -> list[OrnsteinUhlenbeck]:
    return [module for module in policy.modules() if isinstance(module, OrnsteinUhlenbeck)]


class PolicyCopy:
    """Makes the policy of a collector: on the CPU, with its own random generators.

    The first collector draws what the learner would, so a single collector acts as one in this process does.
    """

    def __init__(self, policy: nn.Module, index: int) -> None:
        on_gpu = [generator for generator in generators_of(policy) if generator.device.type != "cpu"]
        on_cpu = {id(each): torch.Generator().manual_seed(each.initial_seed()) for each in on_gpu}
        self._policy, self._index = copy.deepcopy(policy, on_cpu).cpu(), index

    def __call__(self) -> nn.Module:
        if self._index:
            for generator in generators_of(self._policy):
                generator.manual_seed(spawned(generator.initial_seed(), _BY_COLLECTOR, self._index))
        return self._policy


def shares(config: EnvConfig, env: TransformedEnv, collectors: int) -> list[Callable[[], EnvBase]]:
    """Functions that make each collector's environments, `num_envs` of `config` in total.

    Args:
        config: of all environments.
        env: an environment like those to make, with the run's seed and transforms.
        collectors: how many; a divisor of `num_envs`.

    Raises:
        ConfigError: a transform is a running normalisation.
    """
    for each in env.transform:
        if isinstance(each, (VecNorm, VecNormV2)):
            raise ConfigError(
                f"{type(each).__name__} would have other statistics in each collector process; collect in one process, "
                "or use RunningObservationNorm (--normalize-observation), whose statistics are merged"
            )
    share, seed = replace(config, num_envs=config.num_envs // collectors), env.base_env.seeds.first
    makers: list[Callable[[], EnvBase]] = []
    for index in range(collectors):
        # the first collector uses the run's seed as it is
        own = seed if seed is None or not index else spawned(seed, _BY_COLLECTOR, index)
        transforms = [transform.clone() for transform in env.transform]
        makers.append(functools.partial(make_env, share, seed=own, transforms=transforms))
    return makers
