"""Wrappers that learn are refused, whose numbers would be others in each copy of an environment."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import (
    Autoreset,
    ClipReward,
    FrameStackObservation,
    NormalizeObservation,
    NormalizeReward,
    RecordEpisodeStatistics,
    TransformReward,
)
from gymnasium.wrappers import vector as of_vectors

from rlpipe.errors import ConfigError
from rlpipe.pipelines.envs import EnvConfig, make_env
from rlpipe.pipelines.envs.vector import VectorEnv


class Cue(gym.Env):
    """Far from 0 there is a cue, which is to be answered."""

    observation_space, action_space = Box(-np.inf, np.inf, (1,), np.float64), Discrete(2)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self.out(), {}

    def step(self, action):
        self.time += 1
        return self.out(), 1.0, self.time >= 5, False, {}

    def out(self):
        return np.array([499.0 + self.np_random.integers(2)])


class RunningMeanStd:
    """As copied from somewhere."""


class Copied(gym.Wrapper):
    def __init__(self, env):
        super().__init__(env)
        self.ret_rms = RunningMeanStd()


def held(env):
    env = NormalizeObservation(env)
    env.update_running_mean = False
    return env


REFUSED = {
    "observation": (NormalizeObservation, "NormalizeObservation.* use --normalize-observation"),
    "reward": (NormalizeReward, "NormalizeReward.* normalised rewards.* use --normalize-reward"),
    "deep": (lambda env: ClipReward(RecordEpisodeStatistics(NormalizeObservation(env)), 0, 1), "NormalizeObservation"),
    "copied": (Copied, "Copied.* normalised rewards"),
}
TAKEN = {
    "held": held,
    "scaled": lambda env: TransformReward(env, lambda reward: 2 * reward),
    "statistics": RecordEpisodeStatistics,
    "stacked": lambda env: FrameStackObservation(env, 3),
    "autoreset": Autoreset,
}
for name, (wrap, _) in REFUSED.items():
    gym.register(f"tests/Refused-{name}-v0", lambda wrap=wrap, **_: wrap(Cue()))
for name, wrap in TAKEN.items():
    gym.register(f"tests/Taken-{name}-v0", lambda wrap=wrap, **_: wrap(Cue()))


@pytest.mark.parametrize("name", REFUSED)
def test_statistics_of_its_own_are_refused(name):
    with pytest.raises(ConfigError, match=REFUSED[name][1]) as kept:
        make_env(EnvConfig(f"tests/Refused-{name}-v0", 2))
    assert len(str(kept.value).splitlines()) == 1


def test_workers_refuse_them_before_they_begin():
    with pytest.raises(ConfigError, match="use --normalize-observation"):
        make_env(EnvConfig("tests/Refused-observation-v0", 2, "async"))


@pytest.mark.parametrize("name", TAKEN)
def test_other_wrappers_see_whole_episodes(name):
    env = make_env(EnvConfig(f"tests/Taken-{name}-v0", 2), seed=0)
    after = env.rollout(12, break_when_any_done=False)["next"]
    assert after["done"].squeeze(-1).sum(-1).tolist() == [2, 2]
    assert after["episode_reward"][after["done"]].tolist() == [10.0 if name == "scaled" else 5.0] * 4
    env.close()


def test_vector_environments_with_them_are_refused_too():
    with pytest.raises(ConfigError, match="NormalizeReward"):
        VectorEnv(of_vectors.NormalizeReward(SyncVectorEnv([Cue] * 2, autoreset_mode=AutoresetMode.SAME_STEP)))
    with pytest.raises(ConfigError, match="NormalizeReward"):
        VectorEnv(SyncVectorEnv([lambda: NormalizeReward(Cue())], autoreset_mode=AutoresetMode.SAME_STEP))
