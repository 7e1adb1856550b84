"""`rlpipe train --config FILE` and `--print-config`."""

import json
from pathlib import Path

import pytest
from own_algorithm import write

from rlpipe.scripts.main import run

SMALL = {
    "recipe": "ppo",
    "total_frames": 128,
    "num_envs": 2,
    "rollout_steps": 32,
    "minibatch_size": 32,
    "hidden": [8],
    "final_eval_episodes": 1,
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("small.json").write_text(json.dumps(SMALL))


def refused(capsys, *arguments):
    capsys.readouterr()
    assert run(["train", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert not Path("runs").exists()
    return captured.err.removeprefix("rlpipe: error: ").strip()


def config_of(folder):
    return json.loads(Path(folder, "config.json").read_text())["config"]


def test_options_on_the_command_line_win(capsys):
    options = ["--seed", "4", "--clip", "linear:0.3:0.1", "--quiet", "--run-dir", "run"]
    assert run(["train", "--config", "small.json", *options]) == 0
    found = config_of("run")
    assert {**SMALL, **found} == {"recipe": "ppo", **found}
    assert (found["seed"], found["clip"], found["schedule"]) == (4, 0.3, ["clip=linear:0.3:0.1"])
    # the run's own file gives the same run; the recipe may stand before it, or behind
    assert run(["train", "ppo", "--config=run/config.json", "--quiet", "--run-dir", "copy"]) == 0
    assert config_of("copy") == found
    for name in ("evaluations.jsonl", "metrics.jsonl"):
        rows = [[json.loads(each) for each in Path(run_, name).read_text().splitlines()] for run_ in ("run", "copy")]
        assert [row["returns"] for row in rows[0]] == [row["returns"] for row in rows[1]]
    # a number in place of a schedule
    capsys.readouterr()
    assert run(["train", "--config", "run/config.json", "--clip", "0.2", "--print-config"]) == 0
    assert json.loads(capsys.readouterr().out)["clip"] == 0.2


@pytest.mark.slow
def test_each_of_several_seeds_has_the_file():
    assert run(["train", "--config", "small.json", "--seeds", "7", "--run-dir", "seeds", "--quiet"]) == 0
    assert (config_of("seeds/7")["hidden"], config_of("seeds/7")["seed"]) == ([8], 7)


def test_what_is_printed_can_be_trained_with(capsys):
    assert (
        run(["train", "ppo", "--print-config", "--config", "small.json", "--lr", "1e-3", "--clip", "cosine:0.3:0"]) == 0
    )
    text = capsys.readouterr().out
    printed = json.loads(text)
    assert (printed["recipe"], printed["lr"], printed["clip"], printed["hidden"]) == ("ppo", 1e-3, "cosine:0.3:0", [8])
    Path("printed.json").write_text(text)
    assert run(["train", "--config", "printed.json", "--print-config"]) == 0
    assert capsys.readouterr().out == text
    assert not list(Path().glob("run*"))


def test_an_algorithm_of_ones_own_is_named_or_trusted(capsys):
    file = write("mine_too.py")
    Path("mine.json").write_text(json.dumps({"recipe": file, "lr": 0.5}))
    assert "if you trust that, add --trust-module" in refused(capsys, "--config", "mine.json")
    for words in (["--config", "mine.json", "--trust-module", file], [file, "--config", "mine.json"]):
        assert run(["train", *words, "--print-config"]) == 0
        assert json.loads(capsys.readouterr().out)["lr"] == 0.5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config"], "--config needs a file: --config options.json"),
        (["--config", "--seed", "3"], "--config needs a file: --config options.json"),
        (["--config", "small.json", "--config", "b.json"], "--config is given twice, with small.json and b.json"),
        (["--config", "nothing.json"], "config nothing.json cannot be read: No such file or directory"),
        (["dqn", "--config", "small.json"], "config small.json: it is of the recipe ppo, and dqn was named"),
        (["--config", "small.json", "--gama", "1"], "no option is called --gama; did you mean --gamma?"),
        (["--config", "small.json", "--gamma", "2"], "gamma is 2.0; allowed is 0 or more and at most 1"),
        (["ppo", "--hyperparams", "a.yml"], "no option is called --hyperparams; rlpipe train --config FILE, or"),
        (["--print-config"], "the recipe comes before the options, got '--print-config'"),
    ],
)
def test_what_does_not_fit_is_one_line(capsys, arguments, said):
    assert refused(capsys, *arguments).startswith(said)
