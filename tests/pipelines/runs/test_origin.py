"""What tells runs of one config apart: weights that they began with, prolonging, programs, settings nobody recorded."""

import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import forked
import pytest
from folders import write_run
from torch import nn, optim

from rlpipe.pipelines.runs.origin import Origin, continued, describe_program, find_built
from rlpipe.scripts.main import run

SHORT = ["--num-envs", "4", "--rollout-steps", "16", "--minibatch-size", "32", "--epochs", "1", "--hidden", "4"]
SHORT += ["--eval-every", "64", "--eval-episodes", "2", "--final-eval-episodes", "2", "--quiet"]
TRAIN = ["train", "ppo", *SHORT]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def table(capsys, *paths):
    """Labels and seeds of the rows, and what stderr says."""
    capsys.readouterr()
    assert run(["table", *paths, "--json"]) == 0
    captured = capsys.readouterr()
    rows = json.loads(captured.out)["rows"]
    return {row["label"].partition(" --quiet")[0]: row["seeds"] for row in rows}, captured.err


def ends(rows):
    """The labels without what all have in common."""
    return {label.rpartition("--epochs 1")[2].strip(): seeds for label, seeds in rows.items()}


def test_runs_that_began_with_other_weights_have_rows_of_their_own(capsys):
    short = [*TRAIN, "--total-frames", "64"]
    for seed in "01":
        run([*short, "--seed", seed, "--run-dir", f"fresh/{seed}"])
        run([*short, "--seed", seed, "--run-dir", f"a/{seed}", "--start-from", "fresh/0"])
    # the same checkpoint by another name, and another run
    checkpoint = "fresh/../fresh/0/checkpoints/frames-000000000064"
    run([*short, "--seed", "2", "--run-dir", "a/2", "--start-from", checkpoint])
    run([*short, "--seed", "0", "--run-dir", "b/0", "--start-from", "fresh/1"])
    rows, err = table(capsys, "fresh", "a", "b")
    assert ends(rows) == {"": [0, 1], "--start-from fresh/0": [0, 1, 2], "--start-from fresh/1": [0]}
    assert err == ""
    # going on does not forget it
    run(["resume", "a/1", "--total-frames", "128", "--quiet"])
    assert ends(table(capsys, "a/1")[0]) == {"--start-from fresh/0 (prolonged from 64)": [1]}


def test_prolonged_runs_of_another_learning_rate_have_rows_of_their_own(capsys):
    for schedule in ("linear", "constant"):
        options = [*TRAIN, "--lr-schedule", schedule]
        run([*options, "--total-frames", "128", "--run-dir", f"{schedule}/planned"])
        run([*options, "--total-frames", "64", "--run-dir", f"{schedule}/longer", "--seed", "1"])
        run(["resume", f"{schedule}/longer", "--total-frames", "128", "--quiet"])
    assert list(table(capsys, "constant")[0].values()) == [[0, 1]]
    assert ends(table(capsys, "linear")[0]) == {"": [0], "(prolonged from 64)": [1]}
    assert run(["report", "linear", "--out", "page.html"]) == 0
    assert "2 runs in 2 groups" in capsys.readouterr().out


def planned(total, *prolonged):
    entries = [{"total_frames": before, "frames": frames} for before, frames in prolonged]
    return {"config": {"total_frames": total}, "prolonged": entries, "program": None}


@pytest.mark.parametrize(
    ("before", "now", "frames", "prolonged"),
    [
        (planned(100), 100, 60, []),
        (planned(100), 200, 100, [(100, 100)]),
        (planned(100), 200, 60, [(100, 60)]),
        (planned(200, (100, 60)), 200, 150, [(100, 60)]),
        (planned(200, (100, 60)), 300, 150, [(100, 60), (200, 150)]),
        # nothing was learned by the plan between
        (planned(200, (100, 60)), 300, 60, [(100, 60)]),
        (planned(200, (100, 60)), 100, 60, []),
        # back to an older checkpoint than that at which it was prolonged
        (planned(200, (100, 60)), 200, 40, [(100, 40)]),
        ({"config": {"total_frames": 100}}, 200, 60, [(100, 60)]),
    ],
)
def test_what_a_run_was_prolonged_from(before, now, frames, prolonged):
    found = continued(before, {"config": {"total_frames": now}, "program": None}, frames)["prolonged"]
    assert [(each["total_frames"], each["frames"]) for each in found] == prolonged


def test_a_run_without_a_checkpoint_begins_anew():
    assert continued(planned(100, (50, 60)), {"config": {"total_frames": 200}}, 0) == {}


PROGRAM = """
import sys, torch
from tensordict import TensorDict
from rlpipe.modules import MLP, QActor
from rlpipe.pipelines.collectors.collector import SyncDataCollector
from rlpipe.pipelines.envs import EnvConfig, make_env
from rlpipe.pipelines.progress import Evaluation
from rlpipe.pipelines.pipeline import Pipeline
from rlpipe.pipelines.runs.run import Run
from rlpipe.pipelines.training.loop import train
import helper

def go(folder, seed, lr):
    env = make_env(EnvConfig("CartPole-v1", 2), seed=seed)
    policy = QActor(MLP(4, 2, (4,)), env.action_spec)
    optimizer = torch.optim.Adam(policy.parameters(), lr=lr)
    collector = SyncDataCollector(env, policy, frames_per_batch=16, total_frames=16)
    learn = lambda batch: TensorDict({"loss_x": torch.zeros(()), "updates": torch.tensor(1)})
    parts = {"policy": policy, "optimizer": optimizer}
    with Run(folder, "mine", settings={"env_id": "CartPole-v1", "seed": seed}, loggers=()) as run:
        train(Pipeline(collector, learn, policy, parts), run)
        run.log_evaluation(16, Evaluation((1.0, 2.0), (1, 2)), seconds=1.0, final=True)

if __name__ == "__main__":
    for seed, lr in ((0, 0.1), (1, 0.1), (2, 0.2)):
        go(f"runs/{seed}", seed, lr)
"""


def test_custom_runs_are_told_apart_by_code_arguments_and_settings_that_were_not_recorded(tmp_path, capsys):
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "helper.py").write_text("x = 1\n")
    forked.run("program.py", "--seeds", "0-2").check_returncode()
    rows, err = table(capsys)
    assert rows == {"mine (optimizer.lr 0.1)": [0, 1], "mine (optimizer.lr 0.2)": [2]}
    assert err == ""
    described = json.loads(Path("runs/0/config.json").read_text())
    assert described["program"]["arguments"] == ["--seeds", "0-2"]

    def change(**program):
        shutil.copytree("runs/0", "other/0")
        (tmp_path / "other/0/config.json").write_text(
            json.dumps({**described, "program": {**described["program"], **program}})
        )
        found = table(capsys, "runs/1", "other/0")
        shutil.rmtree("other")
        return found

    rows, err = change(digest="fedcba9876543210")
    assert rows == {f"mine (program {described['program']['digest'][:7]})": [1], "mine (program fedcba9)": [0]}
    rows, err = change(arguments=["--seeds", "0-2", "--wide"])
    assert rows == {"mine (--seeds 0-2)": [1], "mine (--seeds 0-2 --wide)": [0]}
    # a number may be a seed, or not
    rows, err = change(arguments=["--seeds", "64"])
    assert rows == {"mine (--seeds 0-2)": [1], "mine (--seeds 64)": [0]}
    rows, err = change(arguments=["--seeds", "0-64"])
    assert rows == {"mine": [0, 1]}
    assert err == (
        "rlpipe: note: the runs of mine on CartPole-v1 were started with different arguments, such as --seeds 0-64 and "
        "--seeds 0-2\n"
    )


def test_the_program_is_the_script_and_what_it_imports_from_its_folder(tmp_path, monkeypatch):
    def describe(*arguments):
        monkeypatch.setattr(sys, "argv", ["script.py", *arguments])
        return describe_program(Path("runs/0"))

    for name in ("__main__", "origin_helper"):
        module = ModuleType(name)
        module.__file__ = str(tmp_path / f"{name}.py")
        Path(module.__file__).write_text("x = 1\n")
        monkeypatch.setitem(sys.modules, name, module)
    first = describe("--out", "runs/0", "--out=runs/0", "--runs/0")
    assert first["arguments"] == ["--out", "RUN", "--out=RUN", "--runs/0"]
    assert describe()["digest"] == first["digest"]
    (tmp_path / "origin_helper.py").write_text("x = 2\n")
    assert describe()["digest"] not in (None, first["digest"])
    # pytest, a notebook or a prompt is no program of the user's
    monkeypatch.delattr(sys.modules["__main__"], "__file__")
    assert describe()["digest"] is None


def test_old_folders_have_no_origin():
    assert Origin().is_like(Origin(seed=3))
    assert Origin().words() == []


def test_arguments_may_hold_the_seed():
    def of(seed, *arguments):
        return Origin(seed=seed, arguments=arguments)

    assert of(0, "--seed", "0", "--lr", "0.1").is_like(of(1, "--seed", "1", "--lr", "0.1"))
    assert of(3, "--out=runs/seed3").is_like(of(12, "--out=runs/seed12"))
    assert not of(0, "--lr", "0.1").is_like(of(1, "--lr", "0.2"))
    assert not of(0, "--lr", "1e-3").is_like(of(1, "--lr", "1e-4"))
    assert of(0, "--width", "64").is_like(of(1, "--width", "128"))
    assert not of(0, "--width", "64").has_arguments_of(of(1, "--width", "128"))
    assert not of(0, "--fast").is_like(of(1))


def test_what_is_found_in_a_pipeline():
    network = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.25))
    network.seed, network.gamma, network.note = 3, 0.9, object()
    found = find_built({"net": network, "sgd": optim.SGD(network.parameters(), lr=0.5), "count": object()}, None)
    assert found["net.gamma"] == 0.9
    assert found["net.1.p"] == 0.25
    assert found["net.0.out_features"] == 3
    assert found["sgd.lr"] == 0.5
    assert not {"net.seed", "net.note", "net.training", "sgd.params"} & set(found)


def test_other_versions_in_a_row_are_noted(capsys):
    for seed, torch in enumerate(["2.13.0", "2.13.0", "2.15.0"]):
        folder = write_run(f"runs/{seed}", seed=seed)
        versions = {"python": "3.11.7", "packages": {"torch": torch, "numpy": "2.4.0"}, "commit": None, "machine": seed}
        (folder / "versions.json").write_text(json.dumps(versions))
    write_run("runs/old", seed=3)
    write_run("runs/odd", seed=4).joinpath("versions.json").write_text("[]")
    rows, err = table(capsys, "runs")
    assert rows == {"ppo": [0, 1, 2, 3, 4]}
    assert err == "rlpipe: note: the runs of ppo on CartPole-v1 differ in their torch\n"


HOSTILE = [{"prolonged": 5}, {"prolonged": [{"frames": 1}]}, {"program": "x"}, {"built": [1]}, {"program": [1]}]


@pytest.mark.parametrize("entries", HOSTILE)
def test_an_origin_that_rlpipe_did_not_write_is_damage(entries, capsys):
    write_run("runs/good")
    path = write_run("runs/bad", seed=1) / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))
    rows, err = table(capsys, "runs")
    assert rows == {"ppo": [0]}
    assert err == "rlpipe: note: 1 run left out, damaged: runs/bad\n"
