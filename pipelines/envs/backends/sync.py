"""The `sync` backend: environments stepped one after the other in this process."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import create_empty_array, iterate

from rlpipe.errors import ConfigError
from rlpipe.pipelines.envs.entries import copied, leaves_of
from rlpipe.warn_once import each_once

Env = gym.Env[Any, Any]
Observation = Any


class SyncEnvs(SyncVectorEnv):
    """Gymnasium's `SyncVectorEnv` with same-step autoreset, for environments that are `Checked`.

    Each observation is copied at once, because environments reuse arrays, and may share them. The infos hold what
    `Checked` keeps of them, and `final_obs` and `final_info` of the episodes that ended.

    Raises:
        ConfigError: two functions of `env_fns` return the same environment; names `spec`.
    """

    def __init__(self, env_fns: Sequence[Callable[[], Env]], spec: EnvSpec | None = None) -> None:
        made: list[Env] = []
        try:
            for make in env_fns:
                made.append(make())
                if len({id(each.unwrapped) for each in made}) < len(made):
                    raise ConfigError(_twice(len(env_fns), spec))
            super().__init__([functools.partial(_given, each) for each in made], autoreset_mode=AutoresetMode.SAME_STEP)
        except BaseException:
            with each_once():
                for each in made:
                    each.close()
            raise
        self.spec = spec
        self._rows: Any = create_empty_array(self.single_observation_space, self.num_envs, fn=np.zeros)
        leaves = leaves_of(self.single_observation_space, "observation").values()
        self._places = [(leaf.get, leaf.get(self._rows)) for leaf in leaves]

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """See Gymnasium; `options["reset_mask"]`, `[num_envs]` bool, selects the environments to reset."""
        given = dict(options or {})
        mask = given.pop("reset_mask", np.ones(self.num_envs, np.bool_))
        if seed is None or isinstance(seed, int):
            seed = [None if seed is None else seed + index for index in range(self.num_envs)]
        for index in np.flatnonzero(mask).tolist():
            self._keep(index, self.envs[index].reset(seed=seed[index], options=given or None)[0])
        return copied(self._rows), {}

    def step(self, actions: Any) -> tuple[Observation, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        rewards: list[Any] = []
        flags: list[tuple[bool, bool]] = []
        infos: dict[str, Any] = {}
        for index, action in enumerate(iterate(self.action_space, actions)):
            observation, reward, terminated, truncated, info = self.envs[index].step(action)
            rewards.append(reward)
            flags.append((terminated, truncated))
            if terminated or truncated:
                infos = self._add_info(infos, {"final_obs": observation, "final_info": info}, index)
                observation, _ = self.envs[index].reset()
            elif info:
                infos = self._add_info(infos, info, index)
            self._keep(index, observation)
        terminations, truncations = np.array(flags, np.bool_).T.copy()
        return copied(self._rows), np.array(rewards, np.float64), terminations, truncations, infos

    def close_extras(self, **kwargs: Any) -> None:
        with each_once():
            super().close_extras(**kwargs)

    def _keep(self, index: int, observation: Observation) -> None:
        for get, row in self._places:
            row[index] = get(observation)


def copy_observations(envs: gym.vector.VectorEnv) -> None:
    """Make the environments of Gymnasium's own `SyncVectorEnv`, which may be wrapped, return copies of observations.

    It keeps references until the last environment has stepped, and returns episodes' last observations uncopied.
    """
    stock = envs.unwrapped
    if isinstance(stock, SyncVectorEnv) and not isinstance(stock, SyncEnvs):
        stock.envs = [each if isinstance(each, Copied) else Copied(each) for each in stock.envs]


class Copied(gym.Wrapper[Any, Any, Any, Any]):
    """Returns copies of observations, because environments reuse arrays, and may share them."""

    def reset(self, **options: Any) -> tuple[Observation, dict[str, Any]]:
        observation, info = self.env.reset(**options)
        return copy.deepcopy(observation), info

    def step(self, action: Any) -> tuple[Observation, Any, bool, bool, dict[str, Any]]:
        observation, *rest = self.env.step(action)
        return copy.deepcopy(observation), *rest


def _given(env: Env) -> Env:
    return env


def _twice(count: int, spec: EnvSpec | None) -> str:
    name = "an environment" if spec is None else f"env-id {spec.id!r}"
    return (
        f"{name} gives the same object each time it is made, but {count} separate ones are needed: make a new one in "
        "each call of the registered function"
    )
