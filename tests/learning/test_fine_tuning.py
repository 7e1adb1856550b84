"""A run that starts from another one, on an environment that has changed."""

import gymnasium as gym
import pytest
from gymnasium.envs.classic_control.cartpole import CartPoleEnv

from rlpipe import run_recipe

pytestmark = pytest.mark.learning


class Pole(CartPoleEnv):
    """CartPole with a pole of another length; Gymnasium's has half a length of 0.5."""

    def __init__(self, length=0.5, **options):
        super().__init__(**options)
        self.length, self.polemass_length = length, self.masspole * length


gym.register("tests/Pole-v0", Pole, max_episode_steps=500)
SHORT = {"eval_every": None, "final_eval_episodes": 20}
CHANGED = {"env_id": "tests/Pole-v0", "env_kwargs": {"length": 1.0}, "num_envs": 4, "total_frames": 1024, "lr": 1e-3}


def test_ppo_on_a_longer_pole(tmp_path):
    first = tmp_path / "first"
    assert run_recipe("ppo", folder=first, total_frames=30_000, **SHORT)["evaluation"]["mean"] > 400
    # seeds 1 to 5 after 1,024 frames: new runs 63 to 136, those that start from the other 175 to 498
    means = {"new": [], "tuned": []}
    for seed in (1, 2, 3):
        for name, start in (("new", {}), ("tuned", {"start_from": first})):
            summary = run_recipe("ppo", folder=tmp_path / name / str(seed), seed=seed, **CHANGED, **SHORT, **start)
            means[name].append(summary["evaluation"]["mean"])
    assert sum(means["tuned"]) / 3 > sum(means["new"]) / 3 + 150, means
