"""Atari games in C++, stepped together by the Arcade Learning Environment's threads."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from rlpipe.pipelines.envs.backends.atari_game import FRAMESKIP, game_observations
from rlpipe.pipelines.envs.backends.pixel_observation import SIDE, STACKED
from rlpipe.pipelines.envs.reset_seeds import distinct_seeds

# it counts frames; episodes are cut here
_NO_LIMIT = 2**30


class AtariGames(gym.vector.VectorEnv[Any, Any, Any]):
    """ALE's `AtariVectorEnv` as the v5 ids prescribe the games, with same-step autoreset and each game's lives.

    Observations are those of `AtariGame`: the preprocessing of Mnih et al. 2015. Rewards are the game's own, and an
    episode is a whole game. As the ids say (Machado et al. 2018), actions are sticky, with probability 0.25, and no
    game begins with random no-ops or by pressing FIRE.

    Steps are counted here, because an episode that ALE truncates ends with an image mixed from two steps, and the value
    of that image is bootstrapped from. (So does a game that is over, but nothing uses that value.)

    As many threads step the games as PyTorch uses; their number does not change results.

    Args:
        spec: Gymnasium's entry, for which `is_game` holds.
        num_envs: how many step together.
        max_episode_steps: truncate episodes here instead of at the id's limit.

    Raises:
        ModuleNotFoundError: ALE is not installed.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}

    def __init__(self, spec: EnvSpec, num_envs: int = 1, max_episode_steps: int | None = None) -> None:
        from ale_py.vector_env import AtariVectorEnv  # noqa: PLC0415 - an extra

        kept = ("game", "repeat_action_probability", "full_action_space")
        self._games: Any = AtariVectorEnv(
            **{name: spec.kwargs[name] for name in kept},
            num_envs=num_envs,
            num_threads=min(num_envs, torch.get_num_threads()),
            max_num_frames_per_episode=_NO_LIMIT,
            autoreset_mode=AutoresetMode.SAME_STEP,
            img_height=SIDE,
            img_width=SIDE,
            stack_num=STACKED,
            frameskip=FRAMESKIP,
            noop_max=0,
            reward_clipping=False,
            use_fire_reset=False,
        )
        self.spec, self.num_envs = spec, num_envs
        self._limit = max_episode_steps or spec.max_episode_steps or _NO_LIMIT
        self._steps = np.zeros(num_envs, dtype=np.int64)
        self.single_observation_space, self.single_action_space = game_observations(), self._games.single_action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        mask = (options or {}).get("reset_mask")
        if mask is not None:
            return self._restart(mask), {}
        self._steps[:] = 0
        seeds = None if seed is None else np.array(distinct_seeds(seed, self.num_envs, bits=31))
        return _entries(*self._games.reset(seed=seeds)), {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        image, reward, terminated, _, game_info = self._games.step(actions)
        self._steps += 1
        truncated = self._steps >= self._limit
        observation, done = _entries(image, game_info), terminated | truncated
        info: dict[str, Any] = {}
        if done.any():
            info = {"final_obs": self._last(observation, terminated, done, game_info), "_final_obs": done}
            self._steps[terminated] = 0
            if (cut := truncated & ~terminated).any():
                observation = self._restart(cut)
        return observation, reward, terminated, truncated, info

    def close_extras(self, **kwargs: Any) -> None:
        """Stop the threads."""
        self._games = None

    def _restart(self, mask: np.ndarray) -> dict[str, np.ndarray]:
        """Reset the games of `mask`, and return all observations."""
        self._steps[mask] = 0
        return _entries(*self._games.reset(options={"reset_mask": mask}))

    def _last(
        self, observation: dict[str, np.ndarray], terminated: np.ndarray, done: np.ndarray, game_info: dict[str, Any]
    ) -> np.ndarray:
        """The last observations of the games of `done`, one by one; ALE has reset those that terminated."""
        last = np.empty(self.num_envs, dtype=object)
        for index in np.flatnonzero(done):
            over = terminated[index]
            image = game_info["final_obs"][index] if over else observation["observation"][index]
            last[index] = {"observation": image, "lives": 0 if over else observation["lives"][index]}
        return last


def _entries(image: np.ndarray, game_info: dict[str, Any]) -> dict[str, np.ndarray]:
    return {"observation": image, "lives": game_info["lives"].astype(np.int64)}
