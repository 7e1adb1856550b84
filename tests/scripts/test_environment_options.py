"""`--env-kwargs`, `--wrapper`, `--frame-stack` and others: what they make of a run, and that commands find it again."""

import dataclasses
import json
import os
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from sized import Sized, make_sized

from rlpipe import EnvConfig, evaluate, run_recipe, trained
from rlpipe.errors import CheckpointError, ConfigError
from rlpipe.pipelines.algorithms.ppo import Config
from rlpipe.pipelines.checkpoints.checkpoint import read_manifest
from rlpipe.pipelines.config.json_form import config_from_json
from rlpipe.pipelines.runs.read import read_run
from rlpipe.scripts.cli.env_options import gathered
from rlpipe.scripts.main import run

NAMES = ["env-kwargs", "eval-env-kwargs", "wrapper", "seed"]
SHORT = ["--total-frames", "64", "--num-envs", "2", "--rollout-steps", "16", "--minibatch-size", "32", "--quiet"]
SHORT += ["--eval-every", "none", "--final-eval-episodes", "2", "--logger", "none"]
QUICK = {"total_frames": 64, "num_envs": 2, "rollout_steps": 16, "minibatch_size": 32, "loggers": None}
QUICK |= {"eval_every": None, "final_eval_episodes": 2}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def config_of(folder="run"):
    with open(os.path.join(folder, "config.json")) as file:
        return json.load(file)["config"]


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (["--env-kwargs", '{"a": 1}', "--seed", "3"], ["--seed", "3", "--env-kwargs", '{"a": 1}']),
        (['--env-kwargs={"a": 1}', "--env_kwargs.a=2"], ["--env-kwargs", '{"a": 2}']),
        (["--env-kwargs.map-name", "8x8"], ["--env-kwargs", '{"map_name": "8x8"}']),
        (["--env-kwargs.a", "[1, 2]", "--env-kwargs.b", "false"], ["--env-kwargs", '{"a": [1, 2], "b": false}']),
        (["--env-kwargs.a", "NaN"], ["--env-kwargs", '{"a": "NaN"}']),
        (["--env-kwargs.a", "-0.5"], ["--env-kwargs", '{"a": -0.5}']),
        (["--env-kwargs.a", '1, "b": 2'], ["--env-kwargs", '{"a": "1, \\"b\\": 2"}']),
        (["--eval-env-kwargs", "none"], ["--eval-env-kwargs", "None"]),
        (
            ["--wrapper", "a:B", "--seed", "3", "--wrapper=c:D", "e:F"],
            ["--seed", "3", "--wrapper", "a:B", "c:D", "e:F"],
        ),
    ],
)
def test_options_that_set_the_same_field_are_gathered(given, read):
    assert gathered(given, NAMES) == read


def test_a_run_and_every_command_that_finds_its_environment_again(capsys):
    options = [
        "--env-id",
        "sized:Sized",
        "--env-kwargs",
        '{"size": 2}',
        "--env-kwargs.reward",
        "2",
        "--frame-stack",
        "2",
    ]
    options += ["--wrapper", 'sized:Doubled {"factor": 3}', "--wrapper", "sized:Doubled", "--action-repeat", "2"]
    options += ["--max-episode-steps", "4", "--time-aware", "--eval-env-kwargs", '{"size": 2, "reward": 1}']
    assert run(["train", "ppo", *options, *SHORT, "--run-dir", "run"]) == 0, capsys.readouterr().err
    found = config_of()
    assert found["env_kwargs"] == {"size": 2, "reward": 2}
    assert found["wrapper"] == ['sized:Doubled {"factor": 3}', "sized:Doubled"]
    assert (found["frame_stack"], found["action_repeat"], found["time_aware"]) == (2, 2, True)
    assert config_from_json(Config, found) == dataclasses.replace(config_from_json(Config, found))
    capsys.readouterr()
    assert run(["evaluate", "run", "--episodes", "2", "--trust-module", "sized", "--json"]) == 0
    # two actions of two steps, of which each earns six times the reward
    assert json.loads(capsys.readouterr().out)["evaluation"]["mean"] == 24
    with trained("run", ["sized"]) as agent:
        judged = evaluate(agent.policy, agent.config.env, episodes=1, seed=0)
        assert (judged.returns, judged.lengths) == ((48.0,), (2,))
    for command in (
        ["render", "run", "--out", "agent.gif", "--quiet"],
        ["export", "run", "--out", "policy.safetensors"],
        ["resume", "run", "--total-frames", "128", "--quiet"],
    ):
        assert run([*command, "--trust-module", "sized"]) == 0, capsys.readouterr().err
    assert run(["table", "run"]) == 0
    assert """--env-kwargs '{"size": 2, "reward": 2}'""" in capsys.readouterr().out


@pytest.mark.parametrize("forgotten", [True, False])
@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--env-id", "sized:Sized"], "is one of 'sized:Sized'"),
        (["--env-id", "tests/Sized-v0", "--wrapper", "sized:Doubled"], "is one with the wrapper 'sized:Doubled'"),
    ],
)
def test_nothing_that_a_run_folder_names_is_called_without_trust(monkeypatch, capsys, options, named, forgotten):
    assert run(["train", "ppo", *options, *SHORT, "--run-dir", "run"]) == 0
    if forgotten:
        monkeypatch.delitem(sys.modules, "sized")
    with pytest.raises(CheckpointError, match=f"{named}, and loading it runs the code of the module 'sized'; if you"):
        read_run(Path("run"))
    for command in ("evaluate", "export", "resume"):
        assert run([command, "run"]) == 2
        assert "--trust-module sized" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"env_id": "os:system", "env_kwargs": {"command": "touch made"}}, "runs the code of the module 'os'"),
        ({"eval_env_id": "os:system"}, "runs the code of the module 'os'"),
        ({"wrapper": ["os:system"]}, "runs the code of the module 'os'"),
        ({"wrapper": ["subprocess:Popen {}"]}, "runs the code of the module 'subprocess'"),
        ({"wrapper": ['gymnasium.wrappers:RecordVideo {"video_folder": "made"}']}, "runs the code of the module 'gym"),
        ({"wrapper": ["gymnasium.wrappers:logger.warn"]}, "runs the code of the module 'gymnasium.wrappers'"),
        ({"wrapper": [["os:system", {}]]}, "runs the code of the module"),
        ({"wrapper": "os:system"}, "expected a tuple of wrappers"),
        ({"wrapper": 3}, "expected a tuple of wrappers"),
        ({"env_kwargs": [1]}, "expected a dict"),
        ({"env_kwargs": {"sutton": 1}}, "belongs to another run: its algorithm or config differs"),
        ({"frame_stack": 0}, "frame_stack is 0"),
    ],
)
def test_a_folder_of_somebody_else(changes, message, capsys):
    assert run(["train", "ppo", *SHORT, "--run-dir", "run"]) == 0
    with open("run/config.json") as file:
        described = json.load(file)
    described["config"] |= changes
    with open("run/config.json", "w") as file:
        json.dump(described, file)
    capsys.readouterr()
    assert run(["evaluate", "run"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not os.path.exists("made")


def test_gymnasiums_wrappers_need_no_trust(capsys):
    options = [
        "--wrapper",
        'gymnasium.wrappers:ClipReward {"max_reward": 0.5}',
        "gymnasium.wrappers:FlattenObservation",
    ]
    assert run(["train", "ppo", *options, *SHORT, "--run-dir", "run"]) == 0
    assert run(["evaluate", "run", "--episodes", "1"]) == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--env-kwargs", "{size: 3}"], "env-kwargs is '{size: 3}', which is not JSON"),
        (["--env-kwargs", "[3]"], "env-kwargs is '[3]'; expected a JSON object"),
        (["--env-kwargs", '{"a": NaN}'], "which is not JSON: NaN is no JSON number"),
        (["--env-kwargs"], "--env-kwargs needs a JSON object"),
        (["--env-kwargs.size"], "--env-kwargs.size needs a value"),
        (["--env-kwargs.", "3"], "--env-kwargs. names no argument"),
        (["--env-kwargs.sise", "3"], "env-kwargs: sized:Sized takes no argument 'sise'; it takes size"),
        (["--eval-env-kwargs.sise", "3"], "takes no argument 'sise'; it takes size"),
        (["--eval-env-kwargs.size", "4"], "with which 'sized:Sized' has other spaces than in training; observations"),
        (["--env-kwargs.size", "three"], "'sized:Sized' cannot be made"),
        (["--wrapper", "sized:Double"], "has no 'Double'; did you mean sized:Doubled?"),
        (["--wrapper"], "--wrapper needs a wrapper"),
        (["--wrapper", "sized:Doubled", "{}"], "wrapper has '{}'; expected module:Wrapper"),
        (["--frame-stack", "0"], "frame_stack is 0; allowed is 1 or more"),
        (["--action-repeat", "-1"], "action_repeat is -1; allowed is 1 or more"),
        (["--time-aware"], "time_aware is True, and sized:Sized has no time limit; set one with --max-episode-steps"),
        (["--n-stack", "4"], "it is --frame-stack here"),
        (["--env-wrapper", "a:B"], "it is --wrapper here"),
        (["--env-kwarg", "{}"], "did you mean --env-kwargs?"),
    ],
)
def test_what_is_refused_in_one_line_and_writes_nothing(options, message, capsys):
    assert run(["train", "ppo", "--env-id", "sized:Sized", *SHORT, *options, "--run-dir", "run"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert os.listdir() == []


def test_what_cannot_be_named_is_said_and_given_again(caplog, capsys):
    made, func = lambda **given: Sized(**given, reward=1.0), lambda reward: reward * 2
    wrappers = [(gym.wrappers.TransformReward, {"func": func})]
    goal = {"notes": np.ones(2).tolist(), "size": 3}
    summary = run_recipe("ppo", env=made, wrappers=wrappers, env_kwargs=goal, folder="run", **QUICK)
    assert summary["evaluation"]["mean"] == 12
    (said,) = [record.message for record in caplog.records if "config.json" in record.message]
    assert said.startswith(
        "rlpipe: config.json cannot hold <lambda> and the wrapper gymnasium.wrappers:TransformReward"
    )
    assert (config_of()["env_id"], config_of()["env_kwargs"]) == ("<lambda>", goal)
    assert run(["evaluate", "run"]) == 2
    assert "has <lambda> in its environment, an object that config.json cannot hold" in capsys.readouterr().err
    assert run(["resume", "run", "--total-frames", "128"]) == 2
    with (
        pytest.raises(CheckpointError, match="has the wrapper gymnasium.wrappers:TransformReward"),
        trained("run", env=Sized),
    ):
        pass
    with trained("run", env=EnvConfig(Sized, wrappers=wrappers, kwargs={"size": 3})) as agent:
        assert evaluate(agent.policy, agent.config.env, episodes=1, seed=0).returns == (12.0,)


def test_a_named_environment_that_is_given_again_needs_no_trust():
    run_recipe("ppo", env=make_sized, env_kwargs={"size": 2}, folder="run", **QUICK)
    with trained("run", env=make_sized) as agent:
        assert agent.config.env_kwargs == {"size": 2}
    with pytest.raises(CheckpointError, match="does not fit"), trained("run", env=EnvConfig(Sized)):
        pass


def test_arguments_that_json_does_not_hold(caplog, capsys):
    run_recipe("ppo", env=Sized, env_kwargs={"reward": np.array([2.0])}, folder="run", **QUICK)
    assert "cannot hold env_kwargs reward" in caplog.text
    assert config_of()["env_kwargs"] == {"reward": "<not in config.json: ndarray>"}
    assert run(["evaluate", "run", "--trust-module", "sized"]) == 2
    assert "has env_kwargs reward in its environment" in capsys.readouterr().err
    with trained("run", env=EnvConfig(Sized, kwargs={"reward": 2})) as agent:
        assert agent.config.env_kwargs == {"reward": 2}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"env": Sized, "env_id": "CartPole-v1"}, "both env_id and env are given"),
        ({"env": 3}, "env_id is 3; expected an id"),
        ({"wrappers": [3]}, "wrapper has 3; expected wrappers"),
        ({"env_kwargs": "{}"}, "env_kwargs is '{}'; expected a dict"),
        ({"wraper": ()}, "did you mean wrapper"),
    ],
)
def test_what_run_recipe_refuses(options, message):
    with pytest.raises(ConfigError, match=message):
        run_recipe("ppo", **options)
    assert os.listdir() == []


def test_a_run_of_an_older_version(capsys):
    assert run(["train", "ppo", *SHORT, "--run-dir", "run"]) == 0
    new = {"env_kwargs", "eval_env_kwargs", "wrapper", "frame_stack", "action_repeat", "time_aware"}
    for path in Path("run/checkpoints").iterdir():
        assert not new & set(read_manifest(path)["metadata"]["run"]["config"])
    described = json.loads(Path("run/config.json").read_text())
    described["config"] = {name: value for name, value in described["config"].items() if name not in new}
    Path("run/config.json").write_text(json.dumps(described))
    assert run(["evaluate", "run", "--episodes", "1"]) == 0, capsys.readouterr().err
    assert run(["resume", "run", "--total-frames", "128", "--quiet"]) == 0, capsys.readouterr().err
    assert config_of()["wrapper"] == []


def test_another_run_starts_from_it_with_other_arguments(capsys):
    first = ["--env-id", "sized:Sized", "--frame-stack", "2"]
    assert run(["train", "ppo", *first, *SHORT, "--run-dir", "one"]) == 0
    start = ["--start-from", "one", *SHORT]
    assert run(["train", "ppo", *first, "--env-kwargs.reward", "3", *start, "--run-dir", "two"]) == 0
    capsys.readouterr()
    assert run(["train", "ppo", "--env-id", "sized:Sized", *start, "--run-dir", "three"]) == 2
    assert (
        "the policy of one reads observations [6], and sized:Sized with frame_stack 1 has [3]"
        in capsys.readouterr().err
    )


@pytest.mark.slow
@pytest.mark.parametrize("collector", ["local", "processes"])
def test_seeds_and_collectors_in_other_processes_get_all_of_it(collector, capsys):
    options = [
        "--env-id",
        "sized:Sized",
        "--env-kwargs.reward",
        "2",
        "--wrapper",
        "sized:Doubled",
        "--frame-stack",
        "2",
    ]
    options += ["--seeds", "0"] if collector == "local" else ["--collector", collector, "--num-collectors", "2"]
    assert run(["train", "ppo", *options, *SHORT, "--run-dir", "runs", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed.get("summaries", [printed])[0]["evaluation"]["mean"] == 24
