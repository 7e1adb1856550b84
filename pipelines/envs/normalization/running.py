"""Normalisation of observations and rewards by running statistics, as transforms.

They give the numbers of Stable-Baselines3's `VecNormalize`, but for its pseudo-count (1e-4 observations of 0 before the
first one), which spoils features far from 0. TorchRL's `VecNormV2` cannot: it takes the variance as a difference of
squares in the type of the data, counts an episode's last observation, subtracts the mean from rewards instead of
following the discounted return, and clips nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from tensordict import TensorDictBase
from torch import Tensor, nn
from torchrl.data import Bounded, Composite, TensorSpec
from torchrl.envs import Transform, TransformedEnv

from rlpipe.errors import ConfigError
from rlpipe.pipelines.envs.entries import COUNTERS, Key
from rlpipe.pipelines.envs.normalization.moments import RunningMoments

_Step = list[tuple[np.ndarray, np.ndarray, np.ndarray]]
"""Of each entry: what to act on, normalised, and the mean and standard deviation that it was normalised by."""


class Running(Transform):
    """What both have: statistics that can be held, and copies that do not share them."""

    frozen = False

    def freeze(self) -> Running:
        """Hold the statistics from now on, as an evaluation does."""
        self.frozen = True
        return self

    def clone(self) -> Any:
        """A copy with its own statistics."""
        other = super().clone()
        other.__dict__["_modules"] = copy.deepcopy(self._modules)
        return other

    def _call(self, next_tensordict: TensorDictBase) -> TensorDictBase:
        return self.forward(next_tensordict)


class RunningObservationNorm(Running):
    """Normalise each number of float observations by its running mean and standard deviation, and clip it.

    An observation `[num_envs, *entry]` becomes float32. At each step the observations that are acted on next, those of
    resets too, are added before they are normalised; an episode's last one is only normalised.

    Args:
        in_keys: the entries to normalise; by default all of floats. Others, such as images of bytes, stay as they are.
        clip: largest absolute value of a result.

    Raises:
        ConfigError: later, by the environment: it has no such entry, or statistics are of another shape.
    """

    def __init__(self, in_keys: Sequence[Key] | None = None, clip: float = 10.0) -> None:
        super().__init__(in_keys=in_keys, out_keys=in_keys)
        self.clip = clip
        self.moments = nn.ModuleList()
        self._is_chosen = in_keys is not None
        self._trace: list[_Step] = []
        self._parts: list[tuple[Key, RunningMoments]] = []

    def transform_observation_spec(self, observation_spec: TensorSpec) -> TensorSpec:
        batch = len(observation_spec.shape)
        if not self._is_chosen:
            self._choose(observation_spec)
        for index, key in enumerate(self.in_keys):
            spec = observation_spec[key]
            shape = spec.shape[batch:]
            if len(self.moments) <= index:
                self.moments.append(RunningMoments(shape))
            elif (known := self.each()[index].shape) != shape:
                raise ConfigError(
                    f"the running statistics of {key!r} have shape {list(known)}, and the observation has {list(shape)}"
                )
            bounds = Bounded(-self.clip, self.clip, shape=spec.shape, dtype=torch.float32)
            observation_spec[key] = bounds.to(spec.device)
        return observation_spec

    def each(self) -> list[RunningMoments]:
        """The statistics of each entry of `in_keys`."""
        return cast("list[RunningMoments]", list(self.moments))

    def _choose(self, spec: Composite) -> None:
        entries = {key: each for key, each in spec.items(True, True) if key not in COUNTERS}
        floats = [key for key, each in entries.items() if each.dtype.is_floating_point]
        if not floats:
            kinds = ", ".join(f"{key!r} of {str(each.dtype).removeprefix('torch.')}" for key, each in entries.items())
            raise ConfigError(
                f"normalize_observation is True, which needs an observation of floats; this environment has {kinds}"
            )
        self.in_keys = self.out_keys = floats
        self._is_chosen = True

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Normalise by the statistics as they are; `[*B, *entry]` each."""
        for key, moments in zip(self.in_keys, self.each(), strict=True):
            value = tensordict.get(key)
            result = self._scaled(value.detach().cpu().numpy(), moments.now.mean, moments.std())
            tensordict.set(key, torch.from_numpy(result).to(value.device))
        return tensordict

    def begin_rollout(self, root: Mapping[Key, Any]) -> None:
        """Keep the statistics of each step from now on, until the rollout is transformed as a whole.

        `root` has the observations to act on first, `[num_envs, *entry]` each.
        """
        self._trace, self._parts = [], list(zip(self.in_keys, self.each(), strict=True))
        self._trace.append([self._noted(moments, _as_float64(root[key])) for key, moments in self._parts])

    def see(self, root: Mapping[Key, Any]) -> None:
        """Add the observations to act on next in a rollout, `[num_envs, *entry]` each."""
        step = []
        for key, moments in self._parts:
            value = _as_float64(root[key])
            if not self.frozen:
                moments.update(value)
            step.append(self._noted(moments, value))
        self._trace.append(step)

    def normalized(self) -> dict[Key, Tensor]:
        """The normalised observations to act on next in a rollout."""
        return {key: torch.from_numpy(step[0]) for key, step in zip(self.in_keys, self._trace[-1], strict=True)}

    def _noted(self, moments: RunningMoments, value: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        mean, std = moments.now.mean, moments.std()
        return self._scaled(value, mean, std), mean, std

    def _call(self, next_tensordict: TensorDictBase) -> TensorDictBase:
        if not self._is_rollout(next_tensordict):
            return self.forward(next_tensordict)
        for index, key in enumerate(self.in_keys):
            steps = np.array([step[index][0] for step in self._trace[:-1]])
            place = next_tensordict.get(key).device
            next_tensordict.set(key, torch.from_numpy(steps).transpose(0, 1).to(place))
        return next_tensordict

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        if self._is_rollout(next_tensordict):
            self._step_each(next_tensordict)
            return next_tensordict
        if not self.frozen:
            self._see_next(next_tensordict)
        return self.forward(next_tensordict)

    def _reset(self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase) -> TensorDictBase:
        if not len(self.moments) and self.container is not None:
            self.container.specs  # noqa: B018 - built on first use, and with it the statistics
        mask = tensordict.get("_reset", None)
        if not self.frozen and (mask is None or self._root() is None):
            self._update(tensordict_reset, mask)
        return self.forward(tensordict_reset)

    def _see_next(self, after: TensorDictBase) -> None:
        root = self._root()
        if root is not None:
            for key, moments in zip(self.in_keys, self.each(), strict=True):
                moments.update(_as_float64(root[key]))
        else:
            # what replaces an episode's last observation comes with the reset
            self._update(after, ~after.get("done"))

    def _update(self, seen: TensorDictBase, rows: Tensor | None) -> None:
        """Add the observations of environments, `rows` of them `[*B, 1]`."""
        for key, moments in zip(self.in_keys, self.each(), strict=True):
            value = seen.get(key).detach().double().cpu().reshape(seen.numel(), *moments.shape)
            chosen = value if rows is None else value[rows.cpu().reshape(-1)]
            if len(chosen):
                moments.update(chosen.numpy())

    def _root(self) -> Mapping[Key, Any] | None:
        """The observations that are acted on next, if the environment has them before TorchRL resets it."""
        env = self.container
        if env is None or not reads_raw(self, env):
            return None
        root = getattr(env.base_env, "root", None)
        known = isinstance(root, dict) and all(isinstance(root.get(key), (np.ndarray, Tensor)) for key in self.in_keys)
        return root if known else None

    def _is_rollout(self, tensordict: TensorDictBase) -> bool:
        return len(self._trace) > 0 and tensordict.ndim == 2

    def _step_each(self, after: TensorDictBase) -> None:
        """Normalise what follows the steps of a rollout `[num_envs, T]`, each by the statistics after that step."""
        trace, self._trace = self._trace[1:], []
        for index, key in enumerate(self.in_keys):
            mean, std = (np.array([step[index][part] for step in trace]) for part in (1, 2))
            value = after.get(key)
            after.set(key, torch.from_numpy(self._scaled(value.cpu().numpy(), mean, std)).to(value.device))

    def _scaled(self, value: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
        result = np.subtract(value, mean, dtype=np.float64)
        result /= std
        # faster than np.clip
        np.minimum(result, self.clip, out=result)
        np.maximum(result, -self.clip, out=result)
        return result.astype(np.float32)


class RunningRewardNorm(Running):
    """Divide rewards by the running standard deviation of the discounted return of each episode so far, and clip them.

    `episode_reward`, and with it every return that is reported, stays the environment's own.

    Args:
        gamma: discount factor per step.
        clip: largest absolute value of a result.
    """

    def __init__(self, gamma: float, clip: float = 10.0) -> None:
        super().__init__(in_keys=["reward"], out_keys=["reward"])
        self.gamma, self.clip = gamma, clip
        self.moments = RunningMoments(())
        self.returns: np.ndarray = np.zeros(0)
        """The discounted return of each environment's episode so far, `[num_envs]`; part of its environment's state."""

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Normalise by the statistics as they are; `[*B, 1]`."""
        reward = tensordict.get("reward", None)
        return tensordict if reward is None else tensordict.set("reward", self._divided(reward, self.moments.std()))

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        if self.frozen:
            return self.forward(next_tensordict)
        reward = next_tensordict.get("reward")
        # time first: one step, or a rollout [num_envs, T, 1]
        shape = (self._number(), -1)
        steps, ended = (each.detach().cpu().reshape(shape).numpy().T for each in (reward, next_tensordict.get("done")))
        std = self._update(steps.astype(np.float64), ended)
        divided = self._divided(reward.detach().cpu().reshape(shape), std).reshape(reward.shape)
        return next_tensordict.set("reward", divided.to(reward.device))

    def _update(self, rewards: np.ndarray, ended: np.ndarray) -> np.ndarray:
        """Add rewards `[T, num_envs]`; the standard deviation after each step, `[T]`."""
        returns = np.empty(rewards.shape)
        running = self.returns if len(self.returns) == rewards.shape[1] else np.zeros(rewards.shape[1])
        for reward, goes_on, row in zip(rewards, ~ended, returns, strict=True):
            np.multiply(running, self.gamma, out=row)
            np.add(row, reward, out=row)
            running = row * goes_on
        self.returns = running
        return self.moments.update_each(returns)

    def _reset(self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase) -> TensorDictBase:
        mask = tensordict.get("_reset", None)
        if mask is None or not len(self.returns):
            self.returns = np.zeros(self._number())
        else:
            self.returns = np.where(mask.cpu().numpy().reshape(-1), 0.0, self.returns)
        return tensordict_reset

    def _number(self) -> int:
        env = self.container
        return 1 if env is None else max(1, env.batch_size.numel())

    def _divided(self, reward: Tensor, std: np.ndarray) -> Tensor:
        divided = reward.detach().cpu().numpy().astype(np.float64) / std
        return torch.from_numpy(np.clip(divided, -self.clip, self.clip).astype(np.float32)).to(reward.device)


def _as_float64(value: np.ndarray | Tensor) -> np.ndarray:
    """What an environment observes, in arrays or in tensors of any device."""
    return (value.cpu().numpy() if isinstance(value, Tensor) else value).astype(np.float64)


def reads_raw(norm: RunningObservationNorm, env: TransformedEnv) -> bool:
    """Whether no transform before it changes what it normalises."""
    for transform in env.transform:
        if transform is norm:
            return True
        if set(transform.out_keys) & set(norm.in_keys):
            return False
    return False


def observation_norms(env: TransformedEnv) -> list[RunningObservationNorm]:
    """The running normalisations of observations among an environment's transforms."""
    return [each for each in env.transform if isinstance(each, RunningObservationNorm)]


def reward_norms(env: TransformedEnv) -> list[RunningRewardNorm]:
    """Those of rewards."""
    return [each for each in env.transform if isinstance(each, RunningRewardNorm)]
