"""Runs on every kind of space: written, resumed to the bit, collected elsewhere, evaluated and drawn."""

import json
from dataclasses import replace

import pytest
from comparing import fingerprint
from forked import spawning_quickly
from kinds import STEPS, acts, masked, reads
from resuming import go, killed

from rlpipe.pipelines.algorithms.recipes import config_class
from rlpipe.scripts.main import run

_EVERY = {"checkpoint_every": 64, "eval_every": 96, "eval_episodes": 2}
_RUN = {"num_envs": 4, "hidden": (8,), "total_frames": 256, **_EVERY}
_PPO = {**_RUN, "rollout_steps": 8, "minibatch_size": 16, "epochs": 2}
_DQN = {**_RUN, "rollout_steps": 4, "minibatch_size": 16, "updates": 2, "warmup_frames": 32, "buffer_size": 100}
NESTED = reads("nested", ("robot", "mode"))
RUNS = {
    "reading": ("ppo", NESTED, _PPO),
    "camera": ("ppo", reads("camera", "speed"), {**_PPO, "shared_trunk": True}),
    "acting": ("ppo", acts("nested"), _PPO),
    "masked": ("a2c", masked("each"), {**_RUN, "rollout_steps": 8}),
    "whole episodes": ("reinforce", acts("tuple"), {**_RUN, "rollout_steps": 8}),
    "replay": ("dqn", NESTED, _DQN),
    "replay of masks": ("dqn", masked("flat"), _DQN),
}


def make_config(name, **changes):
    algorithm, env_id, options = RUNS[name]
    return algorithm, config_class(algorithm)(env_id=f"kinds:{env_id}", **{**options, **changes})


@pytest.mark.parametrize("name", RUNS)
def test_a_killed_run_goes_on_to_the_bit(name, tmp_path):
    algorithm, config = make_config(name)
    go(tmp_path / "whole", algorithm, config)
    killed(tmp_path / "cut", algorithm, config, "learn", 5)
    assert (tmp_path / "cut" / "checkpoints").is_dir()
    go(tmp_path / "cut", algorithm, config)
    assert fingerprint(tmp_path / "cut") == fingerprint(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["reading", "acting", "masked", "replay of masks"])
def test_one_collector_elsewhere_gives_the_same_run(name, tmp_path):
    algorithm, config = make_config(name)
    go(tmp_path / "local", algorithm, config)
    with spawning_quickly():
        go(tmp_path / "elsewhere", algorithm, replace(config, collector="processes"))
    local, elsewhere = (fingerprint(tmp_path / each) for each in ("local", "elsewhere"))
    # a list of them there
    local.pop("environments"), elsewhere.pop("environments")
    assert elsewhere == local


@pytest.mark.parametrize(("name", "best"), [("reading", STEPS), ("acting", STEPS), ("masked", 6 * STEPS)])
def test_commands_take_them(name, best, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    algorithm, config = make_config(name)
    named = [algorithm, "--env-id", config.env_id, "--num-envs", "4", "--rollout-steps", "8", "--total-frames", "64"]
    sizes = ["--minibatch-size", "16"] if algorithm == "ppo" else []
    kept = ["--run-dir", "run", "--quiet", "--final-eval-episodes", "4", *["--gif"] * (name == "reading")]
    assert run(["train", *named, *sizes, *kept]) == 0
    capsys.readouterr()
    assert run(["evaluate", "run", "--episodes", "4", "--trust-module", "kinds", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["evaluation"]
    final = json.loads((tmp_path / "run/evaluations.jsonl").read_text().splitlines()[-1])
    assert found["mean"] == pytest.approx(sum(final["returns"]) / 4)
    assert -best <= found["min"] <= found["max"] <= best
    if name == "reading":
        assert (tmp_path / "run/agent.gif").read_bytes().startswith(b"GIF89a")
        assert run(["render", "run", "--trust-module", "kinds", "--out", "more.gif"]) == 0
        assert (tmp_path / "more.gif").stat().st_size > 200
