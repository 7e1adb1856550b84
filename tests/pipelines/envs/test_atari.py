"""Atari games: C++ against Python step by step, and against what their ids prescribe."""

import sys

import gymnasium as gym
import numpy as np
import pytest
import torch
from torchrl.envs.utils import check_env_specs

from rlpipe.errors import ConfigError
from rlpipe.pipelines.envs import EnvConfig, env_spec, make_env
from rlpipe.pipelines.envs.atari import AtariGames
from rlpipe.pipelines.games import AtariGame

pytest.importorskip("ale_py", reason='needs ALE: pip install "rlpipe[atari]"')


def actions(env, steps, seed=0):
    return np.random.default_rng(seed).integers(env.single_action_space.n, size=(steps, env.num_envs))


def seeded(game, seed):
    """Begin a single game as the vector environment begins one."""
    game._game.ale.setInt("random_seed", seed)
    game._game.load_game()
    return game.reset()[0]


def alike(one, other):
    """Images alike but for rounding."""
    return np.abs(one.astype(int) - other).max() <= 1


@pytest.mark.parametrize("name", ["Breakout", "Pong"])
def test_cpp_and_python_agree_step_by_step_through_the_ends_of_games(name):
    spec, limit = env_spec(f"ALE/{name}-v5"), 260
    games = AtariGames(spec, 2, limit)
    seeds = [5, 6]
    observation = dict(zip(("observation", "lives"), (None, None), strict=True))
    images, told = games._games.reset(seed=np.array(seeds))
    singles = [AtariGame(spec, limit) for _ in seeds]
    for index, single in enumerate(singles):
        first = seeded(single, seeds[index])
        assert alike(first["observation"], images[index])
        assert first["lives"] == told["lives"][index]
    overs = cuts = lost = 0
    for step, action in enumerate(actions(games, 600)):
        observation, reward, terminated, truncated, info = games.step(action)
        for index, single in enumerate(singles):
            own, earned, over, cut, _ = single.step(action[index])
            assert (earned, over, cut) == (reward[index], terminated[index], truncated[index]), step
            if over or cut:
                last = info["final_obs"][index]
                assert last["lives"] == own["lives"]
                # of a game that is over, ALE shows frames from before its end
                assert alike(own["observation"][:3], last["observation"][:3])
                assert over or alike(own["observation"], last["observation"])
                own = single.reset()[0]
                overs, cuts = overs + over, cuts + cut
            lost += own["lives"] < 5
            assert alike(own["observation"], observation["observation"][index]), step
            assert own["lives"] == observation["lives"][index]
    assert cuts
    assert name == "Pong" or (overs and lost)
    games.close()
