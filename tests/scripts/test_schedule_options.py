"""Options whose value is a schedule, on the command line."""

import json
from pathlib import Path

import pytest
from own_algorithm import write

from rlpipe.pipelines.algorithms import ppo
from rlpipe.scripts.cli.schedule_options import with_schedules_apart
from rlpipe.scripts.main import run

SMALL = ["--eval-every", "none", "--final-eval-episodes", "2", "--quiet", "--json", "--logger", "none"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("--seed 3 --clip 0.2", "--seed 3 --clip 0.2"),
        ("--clip linear:0.2:0 --seed 3", "--seed 3 --schedule clip=linear:0.2:0"),
        ("--clip=linear:0.2:0 --value-clip cosine:1:0", "--schedule clip=linear:0.2:0 value_clip=cosine:1:0"),
        ("--schedule lr=linear:1:0 --clip linear:1:0", "--schedule lr=linear:1:0 clip=linear:1:0"),
        ("--clip linear:1:0 --schedule clip=linear:2:0 lr=linear:1:0", "--schedule clip=linear:2:0 lr=linear:1:0"),
        ("--clip linear:1:0 --clip 0.1 --lr linear:1:0", "--clip 0.1 --schedule lr=linear:1:0"),
        ("--schedule lr=linear:1:0 -h", "-h --schedule lr=linear:1:0"),
        ("--env-id a:B --run-dir c:d --clip", "--env-id a:B --run-dir c:d --clip"),
    ],
)
def test_they_become_one_option(given, expected):
    assert " ".join(with_schedules_apart(given.split(), ppo.Config())) == expected


def test_a_number_takes_the_place_of_a_schedule():
    config = ppo.Config(schedule=("clip=linear:0.2:0", "gamma=linear:0.9:0.99"))
    assert with_schedules_apart(["--seed", "3"], config) == ["--seed", "3"]
    # a value, and no option
    assert with_schedules_apart(["--run-dir", "clip"], config) == ["--run-dir", "clip"]
    assert with_schedules_apart(["--schedule", "lr=linear:1:0"], config) == ["--schedule", "lr=linear:1:0"]
    left = ["--clip", "0.1", "--schedule", "gamma=linear:0.9:0.99"]
    assert with_schedules_apart(["--clip", "0.1"], config) == left


def test_a_users_algorithm_has_them_too(capsys):
    inherits = ("class Config:", "class Config(RunConfig):"), ("EnvConfig, Pipeline", "EnvConfig, RunConfig, Pipeline")
    path = write("unscheduled.py", *inherits, ("make_env, on_policy", "make_env, make_schedules, on_policy"))
    assert run(["train", path, "--lr", "linear:1e-3:0", "--run-dir", "refused", *SMALL]) == 2
    said = capsys.readouterr().err
    assert "lr is linear:0.001:0, and build makes no schedule of it; give make_pipeline numbers=" in said
    follows = ("learn, actor, state)", 'learn, actor, state, listeners=make_schedules(config, {"lr": optimizer}))')
    path = write("scheduled.py", *inherits, ("make_env, on_policy", "make_env, make_schedules, on_policy"), follows)
    assert run(["train", path, "--lr", "linear:1e-3:0", "--run-dir", "run", *SMALL]) == 0
    rows = [json.loads(line)["lr"] for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert rows == pytest.approx([1e-3 * (1 - batch / 8) for batch in range(8)])
    plain = write("without_schedules.py")
    capsys.readouterr()
    assert run(["train", plain, "--lr", "linear:1e-3:0", "--run-dir", "none", *SMALL]) == 2
    assert "Config has no field 'schedule'; let it inherit rlpipe.RunConfig" in capsys.readouterr().err


def test_help_tells_of_them(capsys):
    assert run(["train", "ppo", "--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "clip=linear:0.2:0 (KIND:START:END, with :FRAMES or not; cosine, exponential)" in said
