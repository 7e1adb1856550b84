"""The environments of a collector as a component of checkpoints: a resumed run continues as if never stopped."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from rlpipe.errors import ConfigError, TrainingError
from rlpipe.pipelines.checkpoints.encoding import Tensors, decode, encode
from rlpipe.pipelines.checkpoints.state_checks import check_like
from rlpipe.pipelines.envs.arguments.names import as_arguments
from rlpipe.pipelines.envs.entries import Key, name_of, named
from rlpipe.pipelines.envs.make import make_env
from rlpipe.pipelines.envs.normalization.running import reward_norms
from rlpipe.pipelines.envs.tensor.env import TensorEnv
from rlpipe.pipelines.envs.vector import VectorEnv
from rlpipe.pipelines.seeding import spawned

_LOG = logging.getLogger("rlpipe")
_PIECES = 1_000
_BY_CHANGES = 2
"""First number of the key that derives the seed of environments made anew; the second counts the changes."""


class LocalEnvState:
    """The environments of a lean collector, and its counters, as a component of checkpoints.

    Environments whose state can be saved are saved in the middle of their episodes (`captured`). All others are reset
    at each planned checkpoint (`synchronised`), whether or not the run is resumed there later: before it, `cut` ends
    their episodes in the batch, and after it, `synchronise` resets them, with seeds derived from their first seed and
    the frames collected. Any other checkpoint, such as at Ctrl-C, is restored by repeating the actions since the last
    planned one, if they were recorded; else, or if that gives other observations, new episodes begin.

    Environments of `make_env` can be made anew with other arguments (`change`), which the component then holds.
    """

    def __init__(self, collector: Any) -> None:
        self._collector = collector
        # a `VectorEnv`, in arrays, or a `TensorEnv`
        self._env: Any = collector.env.base_env
        self.captured = self._env.can_capture() and _can_keep(self._env)
        self._synchronised: int | None = None
        self._actions: list[TensorDictBase] | None = None
        self.changes = 0
        """How often the environments were made anew."""
        self._changed: dict[str, Any] = {}
        self._first: tuple[Any, int | None] | None = None

    @property
    def kind(self) -> str:
        """`captured` or `synchronised`."""
        return "captured" if self.captured else "synchronised"

    @property
    def env_kwargs(self) -> dict[str, Any]:
        """The present arguments of the environments."""
        return dict(self._origin()[0].kwargs) | self._changed

    def change(self, env_kwargs: Mapping[str, Any]) -> None:
        """Make the environments anew with these arguments besides the present ones, and reset them with new seeds.

        Raises:
            ConfigError: they cannot be made so, or have other spaces then; nothing is changed.
        """
        changed = as_arguments({**self._changed, **env_kwargs}, "change_env")
        if unwritten := changed.unwritten():
            kind = type(changed[unwritten[0]].given).__name__
            raise ConfigError(
                f"change_env sets {unwritten[0]!r} to a {kind}, which a checkpoint cannot hold; give a number, text, "
                "list or dict"
            )
        self._remake(dict(changed), self.changes + 1)

    def _origin(self) -> tuple[Any, int | None]:
        """What the first environments were made from, and their seed."""
        if self._first is None and self._env.made_from is None:
            raise ConfigError(
                "the arguments of these environments cannot be changed, because make_env did not make them"
            )
        return self._first or (self._env.made_from, self._env.seeds.first)

    def _remake(self, changed: dict[str, Any], changes: int) -> None:
        (config, first), old = self._origin(), self._env
        seed = spawned(first, _BY_CHANGES, changes) if changes and first is not None else first
        new: Any = make_env(replace(config, kwargs={**config.kwargs, **changed}), seed=seed, device=old.device).base_env
        try:
            _check_alike(old, new, changed)
        except ConfigError:
            new.close(raise_if_closed=False)
            raise
        # it reports to whoever reads it already
        new.infos = old.infos
        self._collector.env.base_env = self._env = new
        self._collector.env.empty_cache()
        old.close(raise_if_closed=False)
        self._first, self._changed, self.changes = (config, first), changed, changes
        self._synchronised, self._actions = None, None if self._actions is None else []
        self._collector.reset()
        self.captured = new.can_capture() and _can_keep(new)

    def note_actions(self) -> None:
        """Record actions from now on, for `load_state_dict` to repeat; nothing to do if captured."""
        if not self.captured and self._actions is None:
            self._actions = []
            self._collector.on_batch = self._note

    def _note(self, batch: TensorDictBase) -> None:
        actions = self._actions or []
        actions.append(batch.select(*self._env.action_keys).cpu())
        self._actions = [torch.cat(actions, 1)] if len(actions) > _PIECES else actions

    def cut(self, batch: TensorDictBase) -> None:
        """`cut` a batch; nothing to do if captured."""
        if not self.captured:
            cut(batch)

    def synchronise(self, frames: int | None) -> None:
        """Reset every environment with seeds derived from `frames`, or the first ones; nothing to do if captured."""
        if self.captured:
            return
        self._synchronised, self._actions = frames, None if self._actions is None else []
        self._env.seeds.derive(frames)
        self._collector.reset()

    def state_dict(self) -> dict[str, Any]:
        frames, iterations = self._collector.position
        state = {"kind": self.kind, "frames": frames, "iterations": iterations, "root": named(self._env.root)}
        if self.changes:
            state |= {"changes": self.changes, "changed": dict(self._changed)}
        if norms := reward_norms(self._collector.env):
            state["returns"] = [norm.returns for norm in norms]
        if self._collector.carried.keys:
            state["carried"] = self._collector.carried.state_dict()
        if self.captured:
            return {**state, "envs": self._env.get_state()}
        actions = None
        if self._actions:
            keys: list[Key] = self._env.action_keys
            actions = {name_of(key): torch.cat([each.get(key) for each in self._actions], 1) for key in keys}
        return {**state, "synchronised": self._synchronised, "actions": actions}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`; one of other environments is a `ValueError`."""
        changes, changed = state.get("changes", 0), state.get("changed", {})
        if type(changes) is not int or changes < 0 or type(changed) is not dict:
            raise ValueError("changes of arguments are expected to be a whole number, and the arguments a dict")
        if changes != self.changes or changed != self._changed:
            self._remake(changed, changes)
        self._collector.position = position_in(state, self.kind)
        if self.captured:
            self._env.set_state(state["envs"])
        elif not self._replay(state):
            return
        for norm, returns in zip(reward_norms(self._collector.env), state.get("returns", ()), strict=True):
            check_like(norm.returns, returns, "returns")
            norm.returns = returns
        if self._collector.carried.keys:
            self._collector.carried.load_state_dict(state.get("carried"))

    def _replay(self, state: dict[str, Any]) -> bool:
        """Repeat recorded actions; returns whether episodes continue as they were."""
        check_like(named(self._env.root), state["root"], "root")
        if type(state["synchronised"]) not in (int, type(None)):
            raise ValueError(f"synchronised is {state['synchronised']!r}, expected a whole number")
        self.synchronise(state["synchronised"])
        if self._leads_to(state["actions"], state["root"]):
            return True
        _LOG.warning(
            "rlpipe: the same seeds and actions do not lead to the same observations: the run continues, but with "
            "other episodes than it would have had"
        )
        self.synchronise(state["frames"])
        return False

    def _leads_to(self, actions: dict[str, Tensor] | None, root: dict[str, np.ndarray]) -> bool:
        """Repeat recorded actions; returns whether they lead to the observations `root`, by name as they are saved."""
        if actions is not None:
            by_key = {key: actions[name_of(key)] for key in self._env.action_keys}
            recorded = TensorDict(by_key, batch_size=next(iter(by_key.values())).shape[:2])
            self._actions = None if self._actions is None else [recorded]
            try:
                for step in recorded.unbind(1):
                    self._env.advance(self._env.actions_in(step))
            except TrainingError:
                return False
        now: dict[str, Any] = {
            name: each.cpu() if isinstance(each, Tensor) else each for name, each in named(self._env.root).items()
        }
        return all(bool((each == root[name]).all()) for name, each in now.items())


def _check_alike(old: Any, new: Any, changed: Mapping[str, Any]) -> None:
    """Refuse environments that a policy of the old ones does not fit."""
    what = f"change_env: with {', '.join(f'{name}={value!r}' for name, value in changed.items())}"
    if type(old) is not type(new):
        raise ConfigError(f"{what} the environments are made as {type(new).__name__}, and not as {type(old).__name__}")
    for name, kind in (("single_observation_space", "observations"), ("single_action_space", "actions")):
        before, after = getattr(old.envs, name), getattr(new.envs, name)
        if before != after:
            raise ConfigError(f"{what} the {kind} are {after}, and were {before}; they must stay the same")


def cut(batch: TensorDictBase) -> None:
    """Truncate every episode at the last step of a batch `[num_envs, T]`."""
    after = batch.get("next")
    running = ~after.get("done")[:, -1]
    for key in ("done", "truncated"):
        after.get(key)[:, -1] |= running


def position_in(state: dict[str, Any], kind: str) -> tuple[int, int]:
    """The frames and batches that a state counts; a `ValueError` if it is no such state, or not of this `kind`."""
    if state["kind"] != kind:
        raise ValueError(f"environments were {state['kind']}, and are {kind} now")
    frames, iterations = state["frames"], state["iterations"]
    # before the first batch, TorchRL's collectors count -1 of them
    if type(frames) is not int or frames < 0 or type(iterations) is not int or iterations < -1:
        raise ValueError("frames and iterations are expected to be whole numbers")
    return frames, iterations


def _can_keep(env: VectorEnv | TensorEnv) -> bool:
    """Whether environments accept the state that they give, and a checkpoint can hold it."""
    before: Tensors = {}
    after: Tensors = {}
    try:
        state = encode(env.get_state(), before)
        env.set_state(decode(state, before))
        again = encode(env.get_state(), after)
    except Exception:  # methods with these names may do something else, and fail in any way
        return False
    return bool(state == again and all(torch.equal(before[name], after[name]) for name in before))
