"""Environments that never end by themselves: evaluations and runs say so."""

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule

from rlpipe.pipelines.collectors import evaluation
from rlpipe.pipelines.collectors.collector import SyncDataCollector
from rlpipe.pipelines.collectors.evaluation import evaluate
from rlpipe.pipelines.envs import EnvConfig, make_env
from rlpipe.pipelines.front_door import run_recipe
from rlpipe.pipelines.pipeline import Pipeline
from rlpipe.pipelines.training import hints
from rlpipe.pipelines.training.loop import train

SHORT = {"env_id": "tests/Endless-v0", "eval_every": None, "final_eval_episodes": 2, "loggers": None}


@pytest.fixture(autouse=True)
def nothing_was_told(monkeypatch):
    monkeypatch.setattr(evaluation, "MAX_EPISODE_STEPS", 50)
    monkeypatch.setattr(evaluation, "_WARNED", set())


def first_action():
    return TensorDictModule(torch.zeros_like, in_keys=["observation"], out_keys=["action"])


def test_an_evaluation_that_is_cut_says_so_once(caplog):
    for _ in range(2):
        found = evaluate(first_action(), EnvConfig("tests/Endless-v0"), episodes=3, seed=0)
    assert found.lengths == (50,) * 3
    assert caplog.messages == [
        "rlpipe: tests/Endless-v0 has no time limit, and 3 of 3 evaluation episodes were cut at 50 steps: their "
        "returns are those up to there; train with --max-episode-steps (max_episode_steps), which sets a limit"
    ]


def test_a_limit_of_the_users_is_no_surprise(caplog):
    evaluate(first_action(), EnvConfig("tests/Endless-v0", max_episode_steps=50), episodes=3, seed=0)
    assert caplog.messages == []


def test_a_slow_evaluation_says_what_it_waits_for(caplog, monkeypatch):
    monkeypatch.setattr(evaluation, "_SLOW", -1.0)
    evaluate(first_action(), EnvConfig("tests/Endless-v0"), episodes=2, seed=0)
    assert "no episode of an evaluation ended in 4 steps" in caplog.messages[0]
    assert "continues to 50 steps" in caplog.messages[0]
    assert len(caplog.messages) == 2


def test_a_run_that_learns_nothing_says_so(tmp_path, caplog):
    run_recipe("reinforce", folder=tmp_path / "run", **SHORT, num_envs=2, rollout_steps=32, total_frames=128)
    assert "nothing was learned: training ended with 0 updates in 128 frames: no episode has ended" in caplog.text


def test_it_says_so_before_the_end(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(hints, "_PATIENCE", 50)
    run_recipe("reinforce", folder=tmp_path / "run", **SHORT, num_envs=2, rollout_steps=32, total_frames=256)
    assert caplog.text.count("training has made 0 updates in 128 frames: no episode has ended") == 1


def test_a_pipeline_that_makes_no_updates_says_so(caplog):
    env = make_env(EnvConfig("tests/Identity-v0"), seed=0)
    collector = SyncDataCollector(env, first_action(), frames_per_batch=20, total_frames=40)
    train(Pipeline(collector, lambda _: TensorDict(updates=torch.tensor(0)), first_action()))
    assert "0 updates in 40 frames: raise total_frames, or lower what learning waits for" in caplog.text


@pytest.mark.parametrize("recipe", ["ppo", "q-learning/maze"])
def test_a_run_without_an_end_of_an_episode_says_so(tmp_path, caplog, recipe):
    batch = {"num_envs": 2, "rollout_steps": 16, "minibatch_size": 32} if recipe == "ppo" else {}
    run_recipe(recipe, folder=tmp_path / "run", **SHORT, total_frames=64, **batch)
    assert "has no time limit, and no episode ended in 64 frames of training" in caplog.text
    assert "0 updates" not in caplog.text


def test_what_ends_says_nothing(tmp_path, caplog):
    run_recipe("q-learning/maze", folder=tmp_path / "run", **{**SHORT, "env_id": "tests/Identity-v0"}, total_frames=64)
    assert caplog.messages == []
