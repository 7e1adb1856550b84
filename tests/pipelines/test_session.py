"""A recipe trained from Python, and its agent read back."""

import json
import threading

import pytest
import torch

from rlpipe import ConfigError, EnvConfig, evaluate, run_recipe, trained
from rlpipe.errors import CheckpointError
from rlpipe.pipelines.seeding import Seeds

SHORT = {"total_frames": 2048, "eval_every": 2048, "final_eval_episodes": 5}


def test_a_recipe_trained_from_python_is_the_run_of_the_command_line(tmp_path):
    told = []
    summary = run_recipe("ppo", seed=3, lr=1e-3, folder=tmp_path / "run", progress=told.append, **SHORT)
    described = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (described["recipe"], described["config"]["seed"], described["config"]["lr"]) == ("ppo", 3, 1e-3)
    assert summary["frames"] == 2048
    assert summary["evaluation"]["episodes"] == 5
    assert [(now.stage, now.frames, now.final) for now in told] == [
        ("starting", 0, False),
        ("training", 1024, False),
        ("training", 2048, False),
        ("evaluating", 2048, False),
        ("evaluated", 2048, False),
        ("evaluating", 2048, True),
        ("evaluated", 2048, True),
    ]
    assert told[-1].evaluation.summary() == summary["evaluation"]
    assert (told[-1].updates, told[-1].episodes) == (summary["updates"], summary["episodes"])


def test_its_agent_is_the_one_that_was_evaluated(tmp_path):
    summary = run_recipe("ppo", folder=tmp_path / "run", **SHORT)
    with trained(tmp_path / "run") as agent:
        seed = Seeds(0).integer("final evaluation")
        again = evaluate(agent.policy, EnvConfig("CartPole-v1"), episodes=5, seed=seed, transforms=agent.transforms)
    assert again.summary() == summary["evaluation"]
    assert agent.checkpoint.name == "frames-000000002048"


def test_an_option_that_there_is_not_is_named_with_its_nearest(tmp_path):
    with pytest.raises(ConfigError, match="ppo has no option 'learning_rat'; .*"):
        run_recipe("ppo", folder=tmp_path / "run", learning_rat=1)
    with pytest.raises(ConfigError, match="ppo has no option 'total_frame'; did you mean total_frames?"):
        run_recipe("ppo", folder=tmp_path / "run", total_frame=1)
    assert not (tmp_path / "run").exists()


def test_what_progress_and_loggers_may_be(tmp_path):
    with pytest.raises(ConfigError, match="progress is 3; expected a function of one argument, True or False"):
        run_recipe("ppo", folder=tmp_path / "run", progress=3)
    with pytest.raises(ConfigError, match="logger is 'tensorbord'; did you mean tensorboard?"):
        run_recipe("ppo", folder=tmp_path / "run", loggers="tensorbord")
    assert not (tmp_path / "run").exists()
    tiny = {**SHORT, "total_frames": 512, "eval_every": 512, "num_envs": 4, "rollout_steps": 128}
    for loggers, known in [("tensorboard", ["tensorboard"]), (None, []), ("none", [])]:
        run_recipe("ppo", folder=tmp_path / str(loggers), loggers=loggers, **tiny)
        assert json.loads((tmp_path / str(loggers) / "config.json").read_text())["loggers"] == known


def test_a_run_gives_back_the_threads(tmp_path):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        run_recipe("ppo", folder=tmp_path / "run", threads=1, **SHORT)
        assert torch.get_num_threads() == 2
        with pytest.raises(ZeroDivisionError):
            run_recipe("ppo", folder=tmp_path / "next", threads=1, progress=lambda _: 1 / 0, **SHORT)
        assert torch.get_num_threads() == 2
        with trained(tmp_path / "run"):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_what_is_no_run_has_no_agent(tmp_path):
    with pytest.raises(CheckpointError, match="is no run"), trained(tmp_path):
        pass


def test_what_progress_raises_ends_the_run(tmp_path):
    class PrunedError(Exception):
        pass

    def prune(now):
        if now.frames >= 1024:
            raise PrunedError

    with pytest.raises(PrunedError):
        run_recipe("ppo", folder=tmp_path / "run", progress=prune, **SHORT)
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 1
    # nobody holds the folder, nor the next run
    summary = run_recipe("ppo", folder=tmp_path / "next", **SHORT)
    assert summary["frames"] == 2048


def test_runs_in_threads_are_what_they_are_alone(tmp_path):
    def run(name):
        summaries[name] = run_recipe("ppo", folder=tmp_path / name, **{**SHORT, "eval_every": 1024})

    summaries = {}
    threads = [threading.Thread(target=run, args=(name,)) for name in ("first", "second")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    run("alone")
    returns = [summaries[name]["evaluation"] for name in ("first", "second", "alone")]
    assert returns[0] == returns[1] == returns[2]
