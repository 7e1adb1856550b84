"""A run's policy as one function of raw observations, to export it and to `predict`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from gymnasium.spaces import Box
from tensordict.nn import TensorDictSequential
from torch import Tensor, nn
from torchrl.data import Binary, Categorical, TensorSpec

from rlpipe.errors import ConfigError
from rlpipe.modules import DeterministicActor, Explorer, GaussianActor
from rlpipe.modules.actors import StochasticActor, exploring
from rlpipe.modules.base import TensorModule, tensor_modules
from rlpipe.modules.choices import nvec_of
from rlpipe.modules.policies import JointActor
from rlpipe.modules.recurrent import FIRST, Memory, after, state_specs
from rlpipe.pipelines.agents.transforms import OfEntry, of_observations
from rlpipe.pipelines.envs.entries import Key, leaves_of, name_of
from rlpipe.pipelines.envs.observations import MASK

if TYPE_CHECKING:
    from rlpipe.pipelines.agents.agent import Agent

_WIDEST, _MOST = 10.0, 255
_WITH_LOG_PROB: set[Any] = {StochasticActor.compute, JointActor.compute}


class GreedyPolicy(nn.Module):
    """Maps raw observations to actions: `[B, *entry]` for each of `keys`, to `[B, *action]` for each of `action_keys`.

    Observations and actions are those of the Gymnasium environment: statistics and bins are applied within, Discrete
    and MultiDiscrete numbers start where their space does, and Box actions have its type and bounds. An action mask is
    the last entry, bool `[B, choices]`. The parts are shared with the run's policy.

    One that remembers also takes its states before the step, `[B, *state]` for each of `states`, and gives those after
    it behind the actions. Before an episode they are zeros; no step within begins one.

    Raises:
        ConfigError: the policy or a transform of its observation cannot be exported.
    """

    def __init__(self, agent: Agent) -> None:
        super().__init__()
        modules = tensor_modules(agent.policy)
        if modules is None:
            raise ConfigError(f"a policy {_described(agent.policy)} cannot be exported")
        self.parts = nn.ModuleList(modules)
        base: Any = agent.environment
        read = {key for part in modules for key in part.in_keys if key in base.spaces}
        self.keys: list[Key] = [key for key in base.spaces if key in read]
        self.specs: dict[Key, TensorSpec] = {key: base.observation_spec[key][0] for key in self.keys}
        self.starts = {key: start for key in self.keys if (start := _start(base.spaces[key])) is not None}
        actions = leaves_of(base.envs.single_action_space, "action")
        # in the order of the space, as the policy's parts are; TorchRL's `action_keys` are sorted
        self.action_keys: list[Key] = list(actions)
        self.casts = nn.ModuleList(_cast(actions[key].space) for key in self.action_keys)
        self.states = state_specs(agent.policy)
        dims = {key: len(spec.shape) for key, spec in self.specs.items()}
        self.transforms = nn.ModuleList(of_observations(agent.transforms, dims))
        # looked up once, because that takes longer than to compute
        self._steps = [_step(part) for part in modules]

    @property
    def actor(self) -> Any:
        """The first part that writes an action, or what exploration makes one of."""
        parts = cast("Iterable[TensorModule]", self.parts)
        acted = {*self.action_keys, *(part.in_keys[0] for part in parts if isinstance(part, Explorer))}
        return next(part for part in parts if acted & set(part.out_keys))

    @property
    def input_keys(self) -> list[Key]:
        """The entries that `forward` takes: observations, then states."""
        return [*self.keys, *self.states]

    @property
    def output_keys(self) -> list[Key]:
        """The entries that `forward` gives: actions, then states."""
        return [*self.action_keys, *map(after, self.states)]

    def forward(self, *observed: Tensor) -> Any:
        """The greedy action, or a tuple of all that it gives; see the class."""
        decided = self.decide(self.entries(observed))
        given = [each(decided[key]) for each, key in zip(self.casts, self.action_keys, strict=True)]
        given += [decided[after(key)] for key in self.states]
        return tuple(given) if len(given) > 1 else given[0]

    def entries(self, given: Sequence[Tensor]) -> dict[Key, Tensor]:
        """What `forward` takes as the entries of the run's environment, Discrete numbers counted from 0."""
        entries: dict[Key, Tensor] = {
            key: entry - self.starts[key] if key in self.starts else entry
            for key, entry in zip(self.input_keys, given, strict=True)
        }
        if self.states:
            entries[FIRST] = torch.zeros(given[0].shape[0], 1, dtype=torch.bool)
        return entries

    def decide(self, entries: dict[Key, Tensor]) -> dict[Key, Tensor]:
        """Add to the entries of a step, before transforms, what the policy's parts write."""
        for transform in cast("Iterable[OfEntry]", self.transforms):
            entries[transform.key] = transform(entries[transform.key])
        return self.act(entries)

    def act(self, entries: dict[Key, Tensor]) -> dict[Key, Tensor]:
        """As `decide`, behind the transforms."""
        for part, in_keys, out_keys, is_actor in self._steps:
            # noise may read what a greedy policy does not need
            inputs = map(entries.get, in_keys) if isinstance(part, Explorer) else [entries[key] for key in in_keys]
            if is_actor:
                # its log-probability takes longer than the rest, and nobody reads it here
                action = part.pick(part.distribution(*inputs)) if exploring() else part.greedy(*inputs)
                entries.update(zip(out_keys, action.values() if isinstance(action, dict) else (action,), strict=True))
            else:
                entries.update(zip(out_keys, part.compute(*inputs), strict=True))
        return entries

    def counted_from(self) -> dict[str, Any]:
        """The first value of each Discrete or MultiDiscrete entry and action that is not 0, by name."""
        starts = {name_of(key): start.tolist() for key, start in self.starts.items()}
        casts = zip(self.action_keys, self.casts, strict=True)
        return starts | {name_of(key): each.start.tolist() for key, each in casts if isinstance(each, _From)}

    def example(self, batch: int) -> tuple[Tensor, ...]:
        """Random inputs."""
        states = [2.0 * torch.rand(batch, *spec.shape) - 1.0 for spec in self.states.values()]
        return *(self._random(key, spec, batch) for key, spec in self.specs.items()), *states

    def _random(self, key: Key, spec: TensorSpec, batch: int) -> Tensor:
        if key == MASK:
            return torch.rand(batch, *spec.shape) < 0.7
        if isinstance(spec, Binary):
            return torch.randint(2, (batch, *spec.shape)).to(spec.dtype)
        if isinstance(spec, Categorical):
            share = torch.rand(batch, *spec.shape, dtype=torch.float64)
            return (share * nvec_of(spec, 0)).long() + self.starts.get(key, torch.tensor(0))
        real = spec.dtype.is_floating_point
        low, high = ((each if real else each.long()) for each in (spec.space.low, spec.space.high))
        # around the allowed number nearest to 0, because bounds may be infinite or huge
        middle, reach = torch.zeros_like(low).clamp(low, high), _WIDEST if real else _MOST
        low, high = (middle - reach).clamp_min(low), (middle + reach).clamp_max(high)
        share = torch.rand(batch, *spec.shape, dtype=spec.dtype if real else torch.float64)
        steps = (high - low) * share if real else (share * (high - low + 1)).long()
        return (low + steps).to(spec.dtype)


def tensors(greedy: GreedyPolicy) -> dict[str, Tensor]:
    """Weights, action bounds and the numbers of transforms, by names that do not depend on exploration."""
    actor = greedy.actor
    found: dict[str, Tensor] = {}
    for index, part in enumerate(greedy.parts):
        prefix = "policy" if part is actor else "memory" if isinstance(part, Memory) else f"part.{index}"
        found |= {f"{prefix}.{name}": value for name, value in part.state_dict().items() if isinstance(value, Tensor)}
    for name, module in actor.named_modules(prefix="policy"):
        if isinstance(module, (DeterministicActor, GaussianActor)):
            place = name_of(greedy.action_keys[int(name.rpartition(".")[2])]) if name != "policy" else "action"
            for bound in ("low", "high"):
                found[f"{place}.{bound}"] = found.pop(f"{name}.{bound}")
    for transform in cast("Iterable[OfEntry]", greedy.transforms):
        found |= {f"{name_of(transform.key)}.{name}": value for name, value in transform.named_buffers()}
    return {name: value.detach().clone().contiguous() for name, value in found.items()}


def _described(policy: nn.Module) -> str:
    """What a policy that cannot be exported is."""
    if type(policy) is TensorDictSequential:
        for part in policy.get_submodule("module").children():
            if tensor_modules(part) is None:
                return f"with a part of kind {type(part).__name__}, which is no TensorModule of rlpipe,"
    return f"of kind {type(policy).__name__}"


def _step(part: Any) -> tuple[Any, list[Key], list[Key], bool]:
    """A part, what it reads, what it writes, and whether it is an actor, of which only the action is needed."""
    is_actor = type(part).compute in _WITH_LOG_PROB
    return part, list(part.in_keys), list(part.dist_sample_keys if is_actor else part.out_keys), is_actor


def _start(space: Any) -> Tensor | None:
    """The first value of a Discrete or MultiDiscrete space, unless it is 0."""
    start = torch.as_tensor(np.asarray(getattr(space, "start", 0)).astype(np.int64))
    return start if start.any() else None


def _cast(space: Any) -> nn.Module:
    if isinstance(space, Box):
        return _Cast(space)
    start = _start(space)
    return nn.Identity() if start is None else _From(start)


class _From(nn.Module):
    """Counts Discrete and MultiDiscrete actions from the start of their space."""

    start: Tensor

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.register_buffer("start", start, persistent=False)

    def forward(self, action: Tensor) -> Tensor:
        return action + self.start


class _Cast(nn.Module):
    """`ActionCast` for the actions of a Box; the identity if they are in the space already."""

    low: Tensor
    high: Tensor
    parts: Tensor

    def __init__(self, space: Box) -> None:
        super().__init__()
        self.dtype = torch.from_numpy(np.zeros(1, space.dtype)).dtype
        self.whole = np.dtype(space.dtype).kind in "iub"
        low, high = (torch.from_numpy(each.astype(np.float64)) for each in (space.low, space.high))
        # the largest float64 that is not above the bound
        below = torch.nextafter(high, torch.full_like(high, -torch.inf))
        limit = 2.0**63 if self.dtype is torch.int64 else 2.0**64
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("high", torch.where(high >= limit, below, high) if self.whole else high, persistent=False)
        width = (high - low).clamp_min(1.0)
        self.register_buffer("parts", (width + 1) / width, persistent=False)

    def forward(self, action: Tensor) -> Tensor:
        if not self.whole:
            same = action.dtype == self.dtype == torch.float32
            return action if same else action.double().clamp(self.low, self.high).to(self.dtype)
        part = ((action.double() - self.low) * self.parts).floor().clamp_min(0.0)
        return (self.low + part).clamp(self.low, self.high).to(self.dtype)
