"""An agent's policy as a function from NumPy observations to actions, as environments give and take them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector.utils import batch_space
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.envs.utils import ExplorationType, set_exploration_type

from rlpipe.errors import ConfigError
from rlpipe.modules import tensor_modules
from rlpipe.modules.acting import by_straight, runners
from rlpipe.modules.actors import explores
from rlpipe.modules.recurrent import FIRST, after, state_specs
from rlpipe.pipelines.agents.greedy_policy import GreedyPolicy
from rlpipe.pipelines.agents.transforms import Running
from rlpipe.pipelines.collectors.eval_mode import reseed
from rlpipe.pipelines.envs.actions import cast_of
from rlpipe.pipelines.envs.backends.batch_checker import BatchChecker
from rlpipe.pipelines.envs.backends.dtypes import FINITE, FaultError, readable
from rlpipe.pipelines.envs.backends.env_checker import read_as
from rlpipe.pipelines.envs.entries import Arrays, Key, leaves_of, name_of
from rlpipe.pipelines.envs.normalization.running import RunningObservationNorm
from rlpipe.pipelines.envs.observations import ObservationReader
from rlpipe.pipelines.envs.transforms import POINTWISE
from rlpipe.pipelines.pipeline import each_of
from rlpipe.pipelines.seeding import GlobalRandom, Seeds

if TYPE_CHECKING:
    from rlpipe.pipelines.agents.agent import Agent

_OR_A_BATCH = ", or a batch with one more dimension in front"
_NO_START = torch.zeros(1, 1, dtype=torch.bool)

State = tuple[np.ndarray, ...] | None
"""What a policy remembers: an array for each of its states."""


class Predictor:
    """See `Agent.predict`.

    Args:
        agent: its policy gets generators of its own, and is in evaluation mode from then on.

    Raises:
        ConfigError: a transform of the observation spans several steps.
    """

    def __init__(self, agent: Agent) -> None:
        base = agent.environment
        actions = base.envs.single_action_space
        self._observations = _Observations(base.envs.single_observation_space, actions)
        self._cast, self._action_keys = cast_of(actions), list(leaves_of(actions, "action"))
        self._states, self._counts = state_specs(agent.policy), "step_count" in agent.policy.in_keys
        # made once, because that takes longer than a call
        self._runners = runners(tensor_modules(agent.policy) or ())
        self._transform, self._decide = _function_of(agent, base.spaces)
        reseed(list(agent.policy.modules()), Seeds(Seeds(agent.settings.seed).integer("predict")))
        agent.policy.eval()

    def __call__(self, observation: Any, state: State, episode_start: Any, deterministic: bool) -> tuple[Any, State]:
        arrays, rows = self._observations.read(observation)
        for key, transform in self._transform.items():
            arrays[key] = transform(arrays[key])
        entries: dict[Key, Tensor] = {key: torch.from_numpy(array) for key, array in arrays.items()}
        start = _flags(episode_start, rows)
        if self._counts:
            # by noise that lasts, 0 where an episode begins
            entries["step_count"] = (~start).long()
        if self._states:
            entries[FIRST] = start
        entries.update(self._before(state, rows))
        with torch.inference_mode(), explores(not deterministic), by_straight(self._runners):
            decided = self._decide(entries, deterministic)
        chosen: Arrays = {key: decided[key].numpy() for key in self._action_keys}
        action = self._cast(chosen.get("action", chosen))
        states = tuple(decided[after(key)].numpy() for key in self._states)
        if rows is None:
            action, states = _first(action), tuple(each[0] for each in states)
        return action, states or None

    def _before(self, state: State, rows: int | None) -> dict[Key, Tensor]:
        batch = 1 if rows is None else rows
        if state is None:
            return {key: torch.zeros(batch, *spec.shape) for key, spec in self._states.items()}
        if not isinstance(state, tuple) or len(state) != len(self._states):
            given = f"a tuple of {len(state)}" if isinstance(state, tuple) else type(state).__name__
            names = ", ".join(map(name_of, self._states))
            expected = f"a tuple of {len(self._states)} ({names})" if names else "None: this policy does not remember"
            raise ConfigError(f"state is {given}, expected {expected}; pass what predict returned")
        before: dict[Key, Tensor] = {}
        for (key, spec), each in zip(self._states.items(), state, strict=True):
            array, shape = np.asarray(each), (*(() if rows is None else (rows,)), *spec.shape)
            if array.shape != shape or array.dtype.kind != "f":
                raise ConfigError(
                    f"state {name_of(key)!r} has shape {list(array.shape)} and dtype {array.dtype}, expected "
                    f"{list(shape)} of floats; pass what predict returned"
                )
            before[key] = torch.from_numpy(array.reshape(batch, *spec.shape).astype(np.float32))
        return before


Transform = Callable[[np.ndarray], np.ndarray]
Decide = Callable[[dict[Key, Tensor], bool], Any]
"""From the entries of a step, and whether to be greedy, to those that the policy writes."""


class AnyPolicy:
    """A policy of any kind, called with TensorDicts behind the transforms of its observation.

    Args:
        agent: whose policy and transforms.
        observed: the entries of an observation.

    Raises:
        ConfigError: a transform spans several steps.
    """

    def __init__(self, agent: Agent, observed: Iterable[Key]) -> None:
        keys, self._policy = set(observed), agent.policy
        reading = [each for each in each_of(agent.transforms) if keys & set(each.in_keys)]
        for each in reading:
            if not isinstance(each, (*POINTWISE, RunningObservationNorm)):
                raise ConfigError(
                    f"the transform {type(each).__name__} of the observation may span several steps, and predict has "
                    "one; evaluate the agent, or make the transform a wrapper of the environment"
                )
        self._transforms = [each.clone() for each in reading]

    def decide_as(self, entries: Mapping[Key, Tensor], deterministic: bool) -> TensorDictBase:
        """As `decide`, greedy or not; waits for a training in another thread.

        Its modules may not be rlpipe's, and TorchRL's exploration type is one of the process.
        """
        kind = ExplorationType.DETERMINISTIC if deterministic else ExplorationType.RANDOM
        with GlobalRandom().alone(), set_exploration_type(kind):
            return self.decide(entries)

    def decide(self, entries: Mapping[Key, Tensor]) -> TensorDictBase:
        """The entries of a step, before transforms `[B, *entry]`, with what the policy writes."""
        rows = len(next(iter(entries.values())))
        step: TensorDictBase = TensorDict(dict(entries), [rows])
        for each in self._transforms:
            step = each.forward(step)
        for key in set(self._policy.in_keys) - set(step.keys(True, True)):
            # of noise, which is silent here
            step.set(key, torch.ones(rows, 1, dtype=torch.int64))
        return self._policy(step)


def _function_of(agent: Agent, observed: Iterable[Key]) -> tuple[dict[Key, Transform], Decide]:
    """Transforms of a step's entries as arrays, and what makes of these the entries that the policy writes.

    It is without TensorDicts where that can be.
    """
    try:
        greedy = GreedyPolicy(agent)
    except ConfigError:
        return {}, AnyPolicy(agent, observed).decide_as
    transforms: list[Any] = list(greedy.transforms)
    if all(isinstance(each, Running) for each in transforms):
        return {each.key: each.in_numpy() for each in transforms}, lambda entries, _: greedy.act(entries)
    return {}, lambda entries, _: greedy.decide(entries)


class _Observations:
    """Reads one observation or a batch of them as arrays `[B, *entry]`, by key.

    Args:
        space: of one.
        actions: that an action mask is for.
    """

    def __init__(self, space: gym.Space[Any], actions: gym.Space[Any]) -> None:
        self._space, self._read = space, readable(space)
        leaf = next(iter(leaves_of(space, "observation").values()))
        self._get, self._dims = leaf.get, len(leaf.space.shape or ())
        checker = BatchChecker(1, None, {})
        self._reader = ObservationReader(space, self._read, actions, checker, reuses_arrays=True)
        self._batched: dict[int, tuple[gym.Space[Any], gym.Space[Any]]] = {}

    def read(self, observation: Any) -> tuple[Arrays, int | None]:
        """The arrays, and how many observations there are; `None` is one without a batch dimension."""
        rows = self._rows(observation)
        try:
            if rows is None:
                read = _batch_of_one(read_as(observation, self._space, self._read))
            else:
                read = read_as(observation, *self._spaces(rows))
            arrays = self._reader.read(read)
            for key, array in arrays.items():
                if array.dtype.kind == "f" and not np.isfinite(array).all():
                    raise FaultError(f"key {name_of(key)!r} has NaN or infinite numbers, {FINITE}")
        except FaultError as fault:
            if isinstance(observation, tuple) and len(observation) == 2 and isinstance(observation[1], dict):
                why = "a pair, as reset returns it; observation, info = env.reset()"
            else:
                why = f"{fault}{_OR_A_BATCH if rows is None else ''}"
            raise ConfigError(f"predict was given another observation than the agent's: {why}") from None
        return arrays, rows

    def _rows(self, observation: Any) -> int | None:
        try:
            shape = np.shape(self._get(observation))
        except (KeyError, IndexError, TypeError, ValueError):
            return None
        return shape[0] if len(shape) == self._dims + 1 and shape[0] > 0 else None

    def _spaces(self, rows: int) -> tuple[gym.Space[Any], gym.Space[Any]]:
        # read once, because another thread may have a batch of another size
        made = self._batched.get(rows)
        if made is None:
            made = batch_space(self._space, rows), batch_space(self._read, rows)
            self._batched = {rows: made}
        return made


def _flags(episode_start: Any, rows: int | None) -> Tensor:
    """`[B, 1]`, bool."""
    batch = 1 if rows is None else rows
    if episode_start is None:
        return _NO_START if rows is None else torch.zeros(batch, 1, dtype=torch.bool)
    flags = np.asarray(episode_start)
    if flags.dtype.kind not in "bi" or flags.shape not in ((), (batch,)):
        raise ConfigError(
            f"episode_start has shape {list(flags.shape)} and dtype {flags.dtype}, expected a bool"
            f"{'' if rows is None else f' or [{rows}] of them'}"
        )
    return torch.from_numpy(np.broadcast_to(flags.astype(bool), (batch,)).reshape(batch, 1).copy())


def _batch_of_one(nested: Any) -> Any:
    if isinstance(nested, dict):
        return {key: _batch_of_one(each) for key, each in nested.items()}
    return tuple(map(_batch_of_one, nested)) if isinstance(nested, tuple) else nested[None]


def _first(nested: Any) -> Any:
    """The first row of a batch of actions: an integer for Discrete, arrays for others."""
    if isinstance(nested, dict):
        return {key: _first(each) for key, each in nested.items()}
    if isinstance(nested, tuple):
        return tuple(map(_first, nested))
    return nested[0] if nested.dtype.kind in "iu" else nested[0, ...]
