"""`Pipeline`: the parts of an algorithm that the training loop uses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn
from torchrl.envs import (
    ActionScaling,
    CatFrames,
    Compose,
    ObservationNorm,
    RewardScaling,
    TensorDictPrimer,
    TimeMaxPool,
    TrajCounter,
    Transform,
    VecNorm,
    VecNormV2,
)

from rlpipe.errors import ConfigError, shown
from rlpipe.pipelines.checkpoints.parts import completed

Update = Callable[[TensorDictBase], TensorDictBase]
"""One gradient step on a minibatch, or (then called Learn) everything that is learned from a collected batch."""


_TAKEN = ("environments", "transforms", "listeners", "progress", "line", "stopping", "global_random")
"""Names of components that the pipeline and the training loop add."""
_LIBRARIES = ("torchrl", "rlpipe")
STATISTICS = (ObservationNorm, RewardScaling, ActionScaling)
_KNOWN = (*STATISTICS, VecNorm, VecNormV2, CatFrames, TimeMaxPool, TensorDictPrimer, TrajCounter)


class EnvState(Protocol):
    """The environments of a collector, as a component of checkpoints; see `LocalEnvState`."""

    kind: str

    @property
    def env_kwargs(self) -> dict[str, Any]: ...

    def change(self, env_kwargs: dict[str, Any]) -> None: ...

    def note_actions(self) -> None: ...

    def cut(self, batch: TensorDictBase) -> None: ...

    def synchronise(self, frames: int | None) -> None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass
class Pipeline:
    """An algorithm, put together and ready to train.

    Args:
        collector: TorchRL's or ours; yields batches `[num_envs, T]`, or `[T]` for an environment without a batch size.
        learn: takes a collected batch, returns detached scalars; `updates` among them is the number of gradient steps.
        policy: greedy under `ExplorationType.DETERMINISTIC`.
        state: what a checkpoint holds, by name: parts that learn or draw random numbers, each with `state_dict` and
            `load_state_dict`. What it lacks is added: `policy`, what `learn` holds (see `parts_of`), the generators of
            both that no part saves, `environments` for collectors that can save theirs, and `transforms` for those that
            learn and are in no other part.
        transforms: of the policy's environment, for evaluations.
        listeners: functions of one argument, a `Moment`, which `train` calls at the moments of its loop.
    """

    collector: Iterable[TensorDictBase]
    learn: Update
    policy: TensorDictModuleBase
    state: dict[str, Any] = field(default_factory=dict)
    transforms: Sequence[Transform] = field(default_factory=tuple)
    listeners: Sequence[Callable[[Any], object]] = ()
    environments: EnvState | None = field(default=None, init=False)
    _abandoned: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._check_parts()
        ask = getattr(self.collector, "env_state", None)
        self.environments = ask() if ask is not None else None
        self.state = completed(self.state, self.policy, self.learn, _TAKEN)
        if self.environments is not None:
            if "environments" in self.state:
                raise ValueError("the state has 'environments', the name under which the collector's are saved")
            self.state = {**self.state, "environments": self.environments}
        held = {module for part in self.state.values() if isinstance(part, nn.Module) for module in part.modules()}
        learning = [transform for transform in that_learn(self.transforms) if transform not in held]
        if learning and "transforms" not in self.state:
            self.state = {**self.state, "transforms": nn.ModuleList(learning)}

    def _check_parts(self) -> None:
        kinds: tuple[tuple[str, bool, str], ...] = (
            ("collector", isinstance(self.collector, Iterable), "a collector, which yields batches"),
            ("learn", callable(self.learn), "a function of a batch, such as on_policy returns"),
            ("policy", isinstance(self.policy, nn.Module), "a TensorDictModule, such as an actor"),
            ("state", isinstance(self.state, Mapping), "a dict of parts by name"),
            ("listeners", isinstance(self.listeners, (list, tuple)), "a list of functions of one argument, the moment"),
        )
        for name, fits, expected in kinds:
            if not fits:
                raise ConfigError(f"{name} of the Pipeline is {shown(getattr(self, name))}; expected {expected}")
        for each in self.listeners:
            if not callable(each):
                raise ConfigError(f"a listener is {shown(each)}; expected a function of one argument, the moment")

    def statistics(self) -> set[str]:
        """The names of the state's parts that hold a transform; the policy's input depends on them."""
        transforms = set(each_of(self.transforms))
        modules = {name: part for name, part in self.state.items() if isinstance(part, nn.Module)}
        return {name for name, part in modules.items() if transforms & set(part.modules())}

    @property
    def env_kwargs(self) -> dict[str, Any]:
        """The present arguments of the training environments."""
        return self._remakable().env_kwargs

    def change_env(self, **env_kwargs: Any) -> None:
        """Make the training environments anew, with these arguments besides the present ones, for the next batch.

        Episodes in progress are abandoned, and the first resets have seeds that were not used before. Transforms keep
        their statistics. Checkpoints hold the arguments. Evaluations keep those that they had.

        Raises:
            ConfigError: an environment takes no such argument or value, or has other spaces with it, and nothing is
                changed; or the collector cannot remake its environments.
        """
        self._remakable().change(env_kwargs)
        self._abandoned = True

    def drop_abandoned(self) -> None:
        """Let parts forget what they keep of unfinished episodes, if `change_env` has abandoned them."""
        if not self._abandoned:
            return
        self._abandoned = False
        for part in self.state.values():
            drop = getattr(part, "drop_unfinished", None)
            if drop is not None:
                drop()

    def _remakable(self) -> EnvState:
        if self.environments is None:
            raise ConfigError(
                f"{type(self.collector).__name__} cannot change the arguments of its environments; SyncDataCollector "
                "can, over environments of make_env with transforms that treat each step by itself"
            )
        return self.environments

    def close(self) -> None:
        """Close the environments and their processes."""
        shutdown = getattr(self.collector, "shutdown", None)
        if shutdown is not None:
            shutdown(raise_on_error=False)


def each_of(transforms: Iterable[Transform]) -> Iterator[Transform]:
    """Transforms one by one, those inside a `Compose` too."""
    for transform in transforms:
        if isinstance(transform, Compose):
            yield from each_of(transform)
        else:
            yield transform


def that_learn(transforms: Iterable[Transform]) -> list[Transform]:
    """The transforms whose state a checkpoint must hold: running normalisations, and custom ones with tensors."""
    return [each for each in each_of(transforms) if _learns(each)]


def _learns(transform: Transform) -> bool:
    if isinstance(transform, VecNormV2):
        return bool(transform.stateful)
    if isinstance(transform, VecNorm) or (_is_ours(transform) and hasattr(transform, "freeze")):
        return True
    if not is_custom(transform):
        return False
    state = list(transform.state_dict().values())
    return bool(state) and all(isinstance(each, Tensor) and not is_lazy(each) for each in state)


def _is_ours(transform: Transform) -> bool:
    return type(transform).__module__.startswith("rlpipe.")


def is_custom(transform: Transform) -> bool:
    return not isinstance(transform, _KNOWN) and not type(transform).__module__.startswith(_LIBRARIES)


def is_lazy(value: Any) -> bool:
    return isinstance(value, (nn.UninitializedBuffer, nn.UninitializedParameter))
