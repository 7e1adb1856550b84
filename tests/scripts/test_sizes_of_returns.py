"""Returns of 0.0009 and of 1e8, wherever a command shows them."""

import gymnasium as gym
import numpy as np
import pytest

from rlpipe.scripts.main import run
from rlpipe.scripts.reports.groups import Row
from rlpipe.scripts.seeds.results import describe

SHORT = ["--num-envs", "4", "--rollout-steps", "40", "--minibatch-size", "80", "--epochs", "1", "--hidden", "4"]
SHORT += ["--total-frames", "320", "--eval-every", "160", "--eval-episodes", "2", "--final-eval-episodes", "3"]


class Even(gym.Env):
    """Each of 20 steps earns the same, whatever is done."""

    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, scale):
        self.scale = scale

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), self.scale, False, False, {}


gym.register("tests/Tiny-v0", Even, max_episode_steps=20, kwargs={"scale": 4.5e-5})
gym.register("tests/Huge-v0", Even, max_episode_steps=20, kwargs={"scale": -5e6})


@pytest.mark.parametrize(
    ("env_id", "threshold", "mean", "spread"),
    [("tests/Tiny-v0", "0.0005", "0.000900", "0.000000"), ("tests/Huge-v0", "-2e8", "-1.00e+08", "0")],
)
def test_every_command_shows_them(env_id, threshold, mean, spread, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train = ["train", "ppo", "--env-id", env_id, *SHORT]
    range_ = f"({mean} to {mean})"
    assert run([*train, "--run-dir", "runs/0", "--stop-at-return", threshold]) == 0
    shown = capsys.readouterr()
    assert f"return {mean} +- {spread} over 3 greedy episodes {range_}" in shown.out
    assert f"stopped     by an evaluation return of {mean}" in shown.out
    assert f"return: training {mean}" in shown.err
    assert f", evaluation {mean}" in shown.err
    run(["evaluate", "runs/0", "--episodes", "2"])
    assert f"return {mean} +- {spread} over 2 greedy episodes {range_}" in capsys.readouterr().out
    run(["table", "runs/0"])
    assert f"| {mean} (one seed) | {mean} |" in capsys.readouterr().out
    assert run([*train, "--run-dir", "runs/1", "--stop-at-mean", threshold, "--stop-window", "2", "--watch"]) == 0
    shown = capsys.readouterr()
    assert f"stopped     by a mean training return of {mean} over 2 episodes" in shown.out
    assert f"final evaluation return {mean} +- {spread} {range_} at frame 160" in shown.err


def test_seeds_of_different_size_side_by_side():
    returns = {0: 9e-4, 1: 4e-4, 2: 123.4}
    finished = {
        seed: {
            "recipe": "ppo",
            "env_id": "X-v0",
            "eval_env_id": "X-v0",
            "evaluation": {"episodes": 2, "mean": value, "std": value / 4, "min": value, "max": value},
            "frames": 320,
            "seconds": 0.02,
            "waited": {"all": 1.5},
            "run": f"runs/{seed}",
        }
        for seed, value in returns.items()
    }
    lines = describe(finished, Row("ppo", "ppo", "X-v0", (), 4.5e-4, 4e-4, 9e-4), 3.25).splitlines()
    assert [line.split()[1:4] for line in lines[2:5]] == [
        ["0.000900", "+-", "0.000225"],
        ["0.000400", "+-", "0.000100"],
        ["123.4", "+-", "30.9"],
    ]
    assert [line.split()[5:9] for line in lines[2:5]] == [["0.020", "s", "1.5", "s"]] * 3
    assert lines[5] == "  evaluation return 0.000450 (IQM of the seeds; 95 % interval 0.000400 to 0.000900)"
    assert lines[6] == "  time 3.2 s in all"
