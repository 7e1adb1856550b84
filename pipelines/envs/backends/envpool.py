"""The `envpool` backend: environments in C++, stepped by a pool of threads."""

from __future__ import annotations

import difflib
import os
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from rlpipe.errors import ConfigError
from rlpipe.pipelines.envs.reset_seeds import distinct_seeds

# EnvPool has many more, and some that differ from Gymnasium's of the same id; these were compared step by step
_CLASSIC = ("Acrobot-v1", "CartPole-v0", "CartPole-v1", "MountainCar-v0", "MountainCarContinuous-v0")
_TABULAR = ("CliffWalking-v1", "FrozenLake-v1", "FrozenLake8x8-v1")
_BOX2D = ("BipedalWalker-v3", "BipedalWalkerHardcore-v3", "LunarLander-v3", "LunarLanderContinuous-v3")
_PENDULUMS = ("InvertedDoublePendulum", "InvertedPendulum")
_MOVERS = ("Ant", "HalfCheetah", "Hopper", "Reacher", "Swimmer", "Walker2d")
_MUJOCO_V4 = tuple(f"{name}-v4" for name in (*_PENDULUMS, *_MOVERS))
_MUJOCO_V5 = tuple(f"{name}-v5" for name in (*_PENDULUMS, *_MOVERS, "Humanoid", "HumanoidStandup", "Pusher"))
EQUAL_TO_GYMNASIUM = frozenset({*_CLASSIC, *_TABULAR, *_BOX2D, *_MUJOCO_V4, *_MUJOCO_V5})
_ENVS_A_THREAD = 4
# longer than any episode, and one more is still an int32
_NO_LIMIT = 2**30


class EnvPoolVectorEnv(gym.vector.VectorEnv[Any, Any, Any]):
    """EnvPool's environments as a Gymnasium vector environment, with same-step autoreset.

    EnvPool itself resets one step later, in a step that takes no action, and calls an episode that terminates in its
    last allowed step only truncated. Here `step` returns the first observation of the next episode, and the true last
    one in `info["final_obs"]`; steps are counted here, so that an episode can be both. `reset` takes `reset_mask`.
    Spaces and data types are Gymnasium's, rewards float64; EnvPool's infos are left out.

    EnvPool takes seeds only in its constructor: a `reset` with a seed makes a new pool, and the first reset without one
    takes a seed from the operating system.

    Args:
        spec: of an environment among `EQUAL_TO_GYMNASIUM`.
        num_envs: how many step together.
        max_episode_steps: truncate episodes here instead of at the environment's own limit.

    Raises:
        ConfigError: EnvPool is not installed, or has no version known to match this one.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}

    def __init__(self, spec: EnvSpec, num_envs: int = 1, max_episode_steps: int | None = None) -> None:
        self._envpool = _import_envpool()
        _check_id(spec)
        self.spec, self._id, self.num_envs = spec, spec.id, num_envs
        self._limit = max_episode_steps or spec.max_episode_steps
        like = gym.make(spec)
        self.single_observation_space, self.single_action_space = like.observation_space, like.action_space
        like.close()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._pool: Any = None
        self._observation = np.empty(0)
        self._steps = np.zeros(num_envs, dtype=np.int64)

    def reset(
        self, *, seed: int | list[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        mask = (options or {}).get("reset_mask")
        if seed is not None or self._pool is None:
            self._make_pool(seed)
            mask = None
        if mask is None:
            self._steps = np.zeros(self.num_envs, dtype=np.int64)
            self._observation = self._as_gymnasium(self._pool.reset()[0])
        else:
            self._observation = self._restart(mask)
        # a copy, because the caller may write into it
        return self._observation.copy(), {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        if self._pool is None:
            raise gym.error.ResetNeeded("call reset before the first step")
        observation, reward, terminated, _, _ = self._pool.step(actions)
        self._observation = self._as_gymnasium(observation)
        self._steps += 1
        truncated = np.zeros_like(terminated) if self._limit is None else self._steps >= self._limit
        info: dict[str, Any] = {}
        done = terminated | truncated
        if done.any():
            info = {"final_obs": self._observation, "_final_obs": done}
            self._observation = self._restart(done)
        return self._observation.copy(), reward.astype(np.float64), terminated, truncated, info

    def close_extras(self, **kwargs: Any) -> None:
        """Stop the threads."""
        self._pool = None

    def _make_pool(self, seed: int | list[int] | None) -> None:
        seeds = seed if isinstance(seed, list) else distinct_seeds(seed, self.num_envs)
        self._pool = self._envpool.make_gymnasium(
            self._id,
            num_envs=self.num_envs,
            num_threads=_count_threads(self.num_envs),
            # EnvPool takes int32
            seed=[each % 2**32 - 2**31 for each in seeds],
            max_episode_steps=_NO_LIMIT,
        )
        with warnings.catch_warnings():
            # made on first use, with warnings that the bounds lose precision
            warnings.simplefilter("ignore")
            self._pool.observation_space  # noqa: B018

    def _restart(self, mask: np.ndarray) -> np.ndarray:
        """Reset the environments of `mask`, and return all observations, in a new array."""
        observation = self._observation.copy()
        chosen = np.flatnonzero(mask).astype(np.int32)
        if len(chosen):
            observation[chosen] = self._pool.reset(chosen)[0]
            self._steps[chosen] = 0
        return observation

    def _as_gymnasium(self, observation: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(observation, self.single_observation_space.dtype)


def _count_threads(num_envs: int) -> int:
    # does not change results; with fewer environments per thread, waking threads costs more than it saves
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, num_envs // _ENVS_A_THREAD))


def _import_envpool() -> Any:
    try:
        import envpool  # noqa: PLC0415 - half a second, and an extra
    except ImportError as error:
        raise ConfigError(
            "backend is 'envpool', whose package is missing: pip install \"rlpipe[envpool]\", "
            "on Python 3.11 or later and Linux, Windows or an ARM Mac"
        ) from error
    return envpool


def _check_id(spec: EnvSpec) -> None:
    if spec.id in EQUAL_TO_GYMNASIUM and str(spec.entry_point).startswith("gymnasium.envs."):
        return
    near = difflib.get_close_matches(spec.id, sorted(EQUAL_TO_GYMNASIUM), n=3, cutoff=0.6)
    hint = f"it has {', '.join(near)}; " if near else ""
    raise ConfigError(
        f"env-id is {spec.id!r}, and EnvPool has no version known to match Gymnasium's; {hint}backend 'auto' has all"
    )
