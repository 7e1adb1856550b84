"""`TensorEnv`: environments whose observations, rewards and flags are tensors from the start, on any device."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from gymnasium.spaces import Space
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Composite, TensorSpec, Unbounded
from torchrl.envs import EnvBase

from rlpipe.errors import ConfigError, TrainingError
from rlpipe.pipelines.checkpoints.state_checks import check_like
from rlpipe.pipelines.devices import moved
from rlpipe.pipelines.envs.entries import COUNTERS, Arrays, Key, name_of, named
from rlpipe.pipelines.envs.infos.log import InfoLog
from rlpipe.pipelines.envs.reset_seeds import ResetSeeds
from rlpipe.pipelines.envs.specs import done_spec

Tensors = dict[Key, Tensor]
FLAGS = ("done", "terminated", "truncated")
_HOST = torch.device("cpu")
_NUMBERS = ("reward", *FLAGS, *COUNTERS)


class Move(NamedTuple):
    """A step of every environment.

    Args:
        observed: the true next observations, by key.
        reward: `[num_envs]`.
        terminated: `[num_envs]`, or `None` if no episode of this environment ever terminates.
        truncated: `[num_envs]` by the environment itself, or `None`.
    """

    observed: Tensors
    reward: Tensor
    terminated: Tensor | None
    truncated: Tensor | None = None


class Spaces(NamedTuple):
    """What one environment observes and does, as Gymnasium's spaces."""

    num_envs: int
    single_observation_space: Space[Any]
    single_action_space: Space[Any]


class TensorEnv(EnvBase):
    """Environments with same-step autoreset, as a TorchRL environment of batch `[num_envs]`, in tensors only.

    It is to tensors what `VectorEnv` is to arrays: a step's `next` holds the true next observation, and the observation
    of a reset in the same step is the next root; `step_count` (int64) and `episode_reward` (float32) are kept here.
    TorchRL's `step` and `reset` call `advance` and `restart`, which our collector calls itself.

    A subclass says how all environments move (`_move`), which observations follow an end (`_renew`), and how they are
    reset (`_begin`, `_begin_some`).

    Args:
        spaces: of one environment, and how many there are.
        device: of all tensors.
        limit: truncate episodes after so many steps; `None` leaves it to the environment.
        seed: of the first reset; `None` draws one from the operating system.
    """

    made_from: Any = None
    """The `EnvConfig` that `make_env` made it from."""

    def __init__(self, spaces: Spaces, device: torch.device, *, limit: int | None, seed: int | None) -> None:
        num_envs = spaces.num_envs
        super().__init__(device=device, batch_size=torch.Size([num_envs]))
        self.envs, self.limit = spaces, limit
        self.seeds = ResetSeeds(seed, num_envs, takes_list=False)
        self.infos = InfoLog(num_envs)
        self.root: Tensors = {}
        self._restarted = self._nothing = torch.zeros(num_envs, dtype=torch.bool, device=device)

    def _set_specs(self, observation: Composite, action: TensorSpec) -> None:
        columns = (*self.batch_size, 1)
        counters = {
            "step_count": Unbounded(columns, dtype=torch.int64, device=self.device),
            "episode_reward": Unbounded(columns, dtype=torch.float32, device=self.device),
        }
        self.observation_spec = observation.clone().update(counters)
        self.action_spec, self._action_shape = action, action.shape
        self.reward_spec = Unbounded(columns, dtype=torch.float32, device=self.device)
        self.done_spec = done_spec(self.batch_size).to(self.device)

    @property
    def spaces(self) -> dict[str, Space[Any]]:
        """The spaces of an observation's entries, by key."""
        return {"observation": self.envs.single_observation_space}

    def advance(self, action: Tensor) -> Tensors:
        """Step every environment once; `root` becomes the next one.

        Nothing is copied to the host, and no operation waits for the device, if `_move` and `_renew` keep to that.

        Args:
            action: `[num_envs, *action]`, as in the action spec; it is not changed.

        Returns:
            The `next` entries of the step: observations, and `[num_envs]` for each number and flag (`episode_reward` is
            float64 here). They share no memory that a later step writes into.

        Raises:
            ConfigError: the action has another shape.
        """
        if action.shape != self._action_shape:
            raise ConfigError(
                f"the policy's action has shape {list(action.shape)}, expected {list(self._action_shape)}: one of "
                f"{self.envs.single_action_space} for each of {self.envs.num_envs} environments"
            )
        move = self._move(action)
        count, earned = self.root["step_count"] + 1, self.root["episode_reward"] + move.reward
        terminated = self._nothing if move.terminated is None else move.terminated
        truncated = self._nothing if move.truncated is None else move.truncated
        if self.limit is not None:
            late = count >= self.limit
            truncated = late if move.truncated is None else truncated | late
        done = truncated if move.terminated is None else terminated | truncated
        after: Tensors = {
            **move.observed,
            "reward": move.reward,
            "terminated": terminated,
            "truncated": truncated,
            "done": done,
            "step_count": count,
            "episode_reward": earned,
        }
        root = self._renew(done, after)
        root["step_count"], root["episode_reward"] = count.masked_fill(done, 0), earned.masked_fill(done, 0.0)
        # faster than setting attributes, which modules check
        self.__dict__.update(root=root, _restarted=done)
        return after

    def restart(self, mask: Tensor | None = None) -> Tensors:
        """Reset the environments of `mask` (`[num_envs]`, bool), or all, and return the new root.

        An environment that `advance` has just reset is not reset again; to know whether one is left, the host waits for
        the device.
        """
        if mask is None:
            zeros = torch.zeros(self.envs.num_envs, dtype=torch.int64, device=self.device)
            seed = self.seeds.take()
            assert not isinstance(seed, list)
            self.root = {**self._begin(seed), "step_count": zeros, "episode_reward": zeros.double()}
        else:
            pending = mask & ~self._restarted
            if pending.any():
                counted: Tensors = {key: self.root[key].masked_fill(pending, 0) for key in COUNTERS}
                self.root = {**self._begin_some(pending), **counted}
        self._restarted = self._nothing
        return self.root

    def actions_in(self, step: Mapping[Key, Tensor] | TensorDictBase) -> Tensor:
        """The actions of a step as `advance` takes them."""
        return step.get("action").detach().to(self.device)  # type: ignore[union-attr]

    def to(self, device: Any) -> TensorEnv:
        """The environment itself, if it is on this device; else a `ConfigError` says how to make one there."""
        wanted = torch.device(device)
        # 'cuda' is any of them
        if wanted.type != self.device.type or wanted.index not in (None, self.device.index):
            raise ConfigError(
                f"these environments are on {self.device}, and are wanted on {device}; make them there: "
                f"make_env(config, device='{device}')"
            )
        return self

    def can_capture(self) -> bool:
        """Whether `get_state` and `set_state` cover the environments' whole state."""
        return False

    def get_state(self) -> dict[str, Any]:
        """The environments' state in the middle of episodes, for a checkpoint; only if `can_capture()`."""
        return {"envs": self._capture(), "root": named(self.root), "restarted": self._restarted}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from a `get_state`, of any device; raises `ValueError` if it is of other environments."""
        check_like({"envs": None, "root": named(self.root), "restarted": self._restarted}, {**state, "envs": None})
        self._restore(state["envs"])
        self.root = {key: state["root"][name_of(key)].to(self.device, copy=True) for key in self.root}
        self._restarted = state["restarted"].to(self.device, copy=True)

    @abstractmethod
    def _move(self, action: Tensor) -> Move:
        """Step every environment, without resets."""

    @abstractmethod
    def _renew(self, done: Tensor, after: Tensors) -> Tensors:
        """The observations of the next root: those of `after`, or a new episode's for the environments of `done`."""

    @abstractmethod
    def _begin(self, seed: int | None) -> Tensors:
        """Reset every environment, with this seed if there is one, and return their observations."""

    @abstractmethod
    def _begin_some(self, mask: Tensor) -> Tensors:
        """Reset the environments of `mask`, at least one, and return the observations of all."""

    def _capture(self) -> dict[str, Any]:
        raise NotImplementedError

    def _restore(self, state: dict[str, Any]) -> None:
        raise NotImplementedError

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        return self._as_tensordict(self.advance(self.actions_in(tensordict)))

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDictBase:
        mask = tensordict.get("_reset", None) if tensordict is not None else None
        return self._as_tensordict(self.restart(None if mask is None else mask.to(self.device).reshape(-1)))

    def _as_tensordict(self, entries: Tensors) -> TensorDict:
        made = TensorDict(batch_size=self.batch_size, device=self.device)
        for key, value in entries.items():
            made.set(key, as_column(key, value))
        return made

    def _set_seed(self, seed: int | None) -> None:
        self.seeds.first = seed
        self.seeds.derive(None)


def as_column(key: Key, value: Tensor) -> Tensor:
    """An entry of `TensorEnv.root` or `advance`, with any leading dimensions, in the form and type of its spec."""
    if key not in _NUMBERS:
        return value
    return (value.float() if key in ("episode_reward", "reward") else value).unsqueeze(-1)


def on_host(after: Tensors) -> Arrays:
    """The flags and counters of a step as arrays, by one copy from the device."""
    keys: tuple[Key, ...] = ("done", *COUNTERS)
    return dict(zip(keys, (each.numpy() for each in moved([after[key] for key in keys], _HOST)), strict=True))


def check_finite(after: TensorDictBase, what: str = "the environment") -> None:
    """Refuse rewards or observations `[num_envs, T, ...]` that are NaN or infinite; the host waits once.

    Raises:
        TrainingError: names the first entry, the environment and the step.
    """
    floats = [(key, value) for key, value in after.items(True, True) if value.is_floating_point()]
    # a sum is finite only if all of its numbers are; if it overflows, each is looked at
    if torch.stack([value.sum().double() for _, value in floats]).sum().isfinite():
        return
    for key, value in floats:
        wrong = ~value.isfinite().reshape(*after.batch_size, -1).all(-1)
        if wrong.any():
            env, step = wrong.nonzero()[0].tolist()
            raise TrainingError(f"{what} gave a {key} that is not finite: environment {env}, step {step} of the batch")
