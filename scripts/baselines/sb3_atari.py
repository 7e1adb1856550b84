"""Stable-Baselines3 on Atari games: its own classes, on its own environments and on rlpipe's.

Needs the extra `rlpipe[benchmark]`, which this module imports.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack

from rlpipe.arithmetic import ceil_div
from rlpipe.pipelines.algorithms.configs import dqn, ppo
from rlpipe.pipelines.envs import env_spec
from rlpipe.pipelines.envs.backends.atari_vector import AtariGames
from rlpipe.scripts.baselines.sb3 import ppo_settings

Part = Callable[[], object]


class SharedGames(VecEnv):
    """rlpipe's games as a vector environment of Stable-Baselines3, with clipped rewards."""

    def __init__(self, env_id: str, num_envs: int, seed: int) -> None:
        self._games, self._seed = AtariGames(env_spec(env_id), num_envs), seed
        self._actions = np.zeros(num_envs, dtype=np.int64)
        spaces: Any = self._games.single_observation_space
        super().__init__(num_envs, spaces["observation"], self._games.single_action_space)

    def reset(self) -> Any:
        return self._games.reset(seed=self._seed)[0]["observation"]

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = actions

    def step_wait(self) -> Any:
        observation, reward, terminated, truncated, info = self._games.step(self._actions)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for index in np.flatnonzero(terminated | truncated):
            last = info["final_obs"][index]["observation"]
            infos[index] = {"terminal_observation": last, "TimeLimit.truncated": bool(~terminated[index])}
        return observation["observation"], np.sign(reward).astype(np.float32), terminated | truncated, infos

    def close(self) -> None:
        self._games.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [None] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise NotImplementedError

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        raise NotImplementedError

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs


def own_games(env_id: str, num_envs: int, seed: int) -> VecEnv:
    """The same games through Gymnasium and Stable-Baselines3's own wrappers, which need OpenCV."""
    # the wrapper skips frames
    return VecFrameStack(make_atari_env(env_id, num_envs, seed=seed, env_kwargs={"frameskip": 1}), n_stack=4)


def sb3_ppo(config: ppo.Config, env: VecEnv) -> tuple[Part, Part]:
    """PPO with a config's settings: a function that collects a batch, and one that learns from it."""
    model = PPO(
        "CnnPolicy",
        env,
        n_steps=config.rollout_steps,
        batch_size=config.minibatch_size,
        n_epochs=config.epochs,
        seed=config.seed,
        **ppo_settings(config),
    )
    _, callback = model._setup_learn(config.total_frames)

    def collect() -> object:
        return model.collect_rollouts(_env_of(model), callback, model.rollout_buffer, config.rollout_steps)

    return collect, model.train


def sb3_dqn(config: dqn.Config, env: VecEnv) -> tuple[Part, Part]:
    """DQN with a config's settings, after its warm-up: a function that collects a batch, and one that learns."""
    model = DQN(
        "CnnPolicy",
        env,
        learning_rate=config.lr,
        buffer_size=config.buffer_size,
        batch_size=config.minibatch_size,
        target_update_interval=config.target_every,
        exploration_initial_eps=config.epsilon_start,
        exploration_final_eps=config.epsilon_end,
        seed=config.seed,
        device="cpu",
    )
    _, callback = model._setup_learn(config.total_frames)

    def collect(steps: int = config.rollout_steps) -> object:
        often = TrainFreq(steps, TrainFrequencyUnit.STEP)
        buffer: Any = model.replay_buffer
        return model.collect_rollouts(_env_of(model), callback, often, buffer)

    collect(ceil_div(config.warmup_frames, config.num_envs))
    return collect, lambda: model.train(config.updates, config.minibatch_size)


def _env_of(model: Any) -> VecEnv:
    """The environment of a model, with the model's wrappers."""
    env: VecEnv = model.get_env()
    return env
