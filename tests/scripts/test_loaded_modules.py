"""Which modules a command imports: what needs no PyTorch answers at once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from folders import write_run

from rlpipe.pipelines.algorithms.recipes import RECIPES

LEARNING = {"torch", "torchrl", "tensordict", "ray", "matplotlib"}
ANY = {*LEARNING, "gymnasium", "numpy", "scipy"}
# it runs commands one after the other, and tells after each the exit code and what is there of the modules
CODE = """
import contextlib, io, json, sys
from rlpipe.scripts.main import run
modules, commands = json.loads(sys.argv[1])
for command in commands:
    with contextlib.redirect_stdout(io.StringIO()):
        code = run(command.split())
    print(json.dumps([command, code, sorted({*modules} & {*sys.modules})]))
"""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def loaded(modules, commands):
    """The exit code of each command, all in one process; fails if one has imported any of the modules."""
    words = [sys.executable, "-c", CODE, json.dumps([sorted(modules), commands])]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    codes = {}
    for line in done.stdout.splitlines():
        command, codes[command], found = json.loads(line)
        assert not found, f"rlpipe {command} imported {found}"
    assert len(codes) == len(commands), done.stderr
    return codes


def test_help_and_mistyped_names_import_nothing_heavy():
    asked = ["", "--version", "recipes", "train", "benchmark"]
    mistyped = [
        "trian",
        "train ppoo",
        "evaluate nothing-here",
        "render nothing-here",
        "resume nothing-here",
    ]
    codes = loaded(ANY, [*asked, *mistyped])
    assert codes == dict.fromkeys(asked, 0) | dict.fromkeys(mistyped, 2)


@pytest.mark.parametrize("command", ["evaluate", "export", "render", "report", "resume", "table"])
def test_the_help_of_a_command_needs_only_the_parser(command):
    mistyped, asked = (f"{command} nothing-here --zzz", f"{command} --help")
    assert loaded(ANY, [mistyped, asked]) == {mistyped: 2, asked: 0}


def test_the_options_of_recipes_are_read_without_pytorch():
    names = {recipe.algorithm: name for name, recipe in RECIPES.items()}.values()
    helps = [f"train {name} --help" for name in names]
    mistyped = [f"train {name} --zzz 3" for name in names]
    refused = [
        "train ppo --gamma 3",
        "train ppo --lr abc",
        "train ppo --lr linear:a:0",
        "train ppo --clip linear:0.2:0:9x",
        "train dqn --buffer-size 3",
        "train reinforce --rollout-steps 1",
        "train ppo --env-id CratPole-v1",
        "train ppo --eval-env-id CratPole-v1",
        "train ppo --env-kwargs {",
        "train ppo --logger paper",
        "train ppo --start-from nothing-here",
        "train ppo --seeds 3-1",
        "train ppo --seeds 0-1 --seed 3",
        "train ppo --seeds 0-1 --gamma 3",
        "train ppo --watch --quiet",
        "train --config nothing-here",
        "train --config options.yaml --lr abc",
        "train dqn --config options.yaml",
    ]
    Path("options.yaml").write_text("recipe: ppo\ngamma: 0.9")
    printed = ["train ppo --print-config", "train --config options.yaml --print-config"]
    codes = loaded(LEARNING, [*helps, *mistyped, *refused, *printed])
    assert codes == dict.fromkeys([*helps, *printed], 0) | dict.fromkeys([*mistyped, *refused], 2)


def test_what_only_reads_runs_needs_no_pytorch():
    write_run("runs/a")
    refused = ["table nothing-here", "report nothing-here"]
    assert loaded({*LEARNING, "scipy", "plotly"}, refused) == dict.fromkeys(refused, 2)
    commands = ["table runs", "table runs --json", "report runs --out page.html"]
    assert loaded(LEARNING, commands) == dict.fromkeys(commands, 0)


def test_names_that_need_no_pytorch_import_none():
    names = (
        "ConfigError, EnvConfig, Evaluation, Progress, RunConfig, StopTraining, StoppingRule, TrainConfig, find_recipe"
    )
    code = f"import sys; from rlpipe import {names}; find_recipe('sarsa/maze').config()"
    code += f"; sys.exit(str({LEARNING} & {{*sys.modules}} or ''))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


def test_python_refuses_without_pytorch_too():
    calls = """
        rlpipe.train("ppoo")
        rlpipe.train("ppo", lr="fast")
        rlpipe.train("ppo", lrr=3)
        rlpipe.train("ppo", progress=3)
        rlpipe.train("ppo", start_from="nothing-here")
        rlpipe.train("options.yaml")
        rlpipe.load("nothing-here")
    """
    code = "import json, sys, rlpipe\n"
    for call in calls.split("\n")[1:-1]:
        code += f"try: {call.strip()}\nexcept rlpipe.ConfigError as error: print(error)\n"
    code += f"print(json.dumps(sorted({LEARNING!r} & {{*sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *refused, found = done.stdout.splitlines()
    assert len(refused) == 7
    assert json.loads(found) == []
