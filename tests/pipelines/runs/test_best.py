"""The agent of the best evaluation: when it is kept, what it is, and how it is named."""

import json
import math
import shutil
from pathlib import Path
from pkgutil import resolve_name

import pytest
import torch
from comparing import fingerprint
from resuming import Killed, Whole, go, killed, killed_at, lengthened, make_config

from rlpipe import Run, evaluate, run_recipe, trained
from rlpipe.errors import CheckpointError
from rlpipe.pipelines.checkpoints.checkpoint import read_manifest
from rlpipe.pipelines.checkpoints.names import newest_checkpoint
from rlpipe.pipelines.runs.read import read_best, read_run
from rlpipe.pipelines.runs.run import BuiltFrom
from rlpipe.pipelines.seeding import Seeds
from rlpipe.scripts.main import run

SETTINGS = {"env_id": "CartPole-v1", "seed": 0}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return Whole(tmp_path_factory)


def agents(folder):
    return sorted(path.name for path in (folder / "checkpoints").glob("best-*"))


def scores(folder):
    """Mean return of each evaluation by its frame, the final one's beside that of training."""
    rows = [json.loads(line) for line in (folder / "evaluations.jsonl").read_text().splitlines()]
    return [(row["frames"], sum(row["returns"]) / len(row["returns"])) for row in rows]


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        ([1.0, 9.0, 2.0, 3.0], 2),
        ([9.0, 9.0, 2.0], 1),
        ([-5.0, -9.0, -7.0, -5.0], 1),
        ([math.nan, -math.inf, 1.0, math.inf, math.nan], 3),
        ([0.0001, 0.0002], 2),
        ([math.nan], None),
    ],
)
def test_which_is_the_best(tmp_path, told, kept):
    network = torch.nn.Linear(1, 1)
    with Run(tmp_path / "run", "mine", settings=SETTINGS) as opened:
        for frames, score in enumerate(told, 1):
            network.bias.data.fill_(frames)
            opened.keep_best(frames, {"policy": network, "optimizer": torch.optim.Adam(network.parameters())}, score)
            assert len(agents(opened.folder)) <= 1
    found = read_best(opened.folder)
    assert (found and found.frames) == kept
    if kept is not None:
        assert found.score == told[kept - 1]
        assert set(read_manifest(found.path)["components"]) == {"policy"}


def test_a_better_evaluation_at_the_same_frame(tmp_path):
    with Run(tmp_path / "run", "mine", settings=SETTINGS) as opened:
        for score in (1.0, 2.0, 3.0):
            opened.keep_best(5, {"policy": torch.nn.Linear(1, 1)}, score)
            assert read_best(opened.folder).score == score
            assert len(agents(opened.folder)) == 1
    assert read_run(opened.folder / "checkpoints" / agents(opened.folder)[0])[1] == read_best(opened.folder).path


@pytest.mark.parametrize(
    ("recipe", "options"),
    [
        ("ppo", {"rollout_steps": 32, "num_envs": 4, "minibatch_size": 64}),
        ("ppo", {"rollout_steps": 32, "num_envs": 4, "minibatch_size": 64, "normalize_observation": True}),
        ("dqn", {"warmup_frames": 128, "num_envs": 4, "rollout_steps": 8, "buffer_size": 1000}),
        ("q-learning/maze", {"max_episode_steps": 30}),
    ],
)
@pytest.mark.parametrize("every", [None, 200])
def test_it_acts_as_it_did_when_it_was_evaluated(tmp_path, recipe, options, every):
    given = {"total_frames": 1024, "eval_every": 256, "eval_episodes": 3, "final_eval_episodes": 3, **options}
    if not recipe.startswith("q"):
        given = {"env_id": "Acrobot-v1", "hidden": (8,), "max_episode_steps": 90, **given}
    summary = run_recipe(recipe, folder=tmp_path / "run", checkpoint_every=every, loggers=None, **given)
    found = scores(tmp_path / "run")
    frames, score = max(found, key=lambda each: each[1])
    assert summary["best"] == {"frames": frames, "mean": score, "checkpoint": str(read_best(tmp_path / "run").path)}
    with trained(f"{tmp_path}/run@best") as agent:
        stream = "evaluation" if (frames, score) in found[:-1] else "final evaluation"
        again = evaluate(
            agent.policy,
            agent.config.eval_env,
            episodes=3,
            seed=Seeds(0).integer(stream),
            transforms=agent.transforms,
        )
    assert again.mean == score
    files = {path.stem for path in agent.checkpoint.glob("*.safetensors")}
    assert files <= {"policy", "loss", "observation_norm"}
    # whatever is written at planned checkpoints, those that a run is resumed from are as many as ever
    assert len(list((tmp_path / "run" / "checkpoints").glob("frames-*"))) == (1 if every is None else 2)


@pytest.mark.parametrize("kind", ["cartpole", "acrobot"])
def test_keeping_it_changes_nothing(tmp_path, whole, monkeypatch, kind):
    config = make_config("a2c", kind)
    kept = whole("a2c", config)
    assert agents(kept)
    monkeypatch.setattr("rlpipe.pipelines.runs.run.keep_best", lambda *_: None)
    go(tmp_path / "run", "a2c", config)
    assert not agents(tmp_path / "run")
    assert fingerprint(tmp_path / "run") == fingerprint(kept)


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize(
    "place",
    [
        "rlpipe.pipelines.checkpoints.checkpoint.write_synced",
        "rlpipe.pipelines.checkpoints.checkpoint.os.replace",
        "rlpipe.pipelines.runs.best.mark_best",
        "rlpipe.pipelines.runs.read.replace_synced",
        "rlpipe.pipelines.runs.best.remove_checkpoint",
        "rlpipe.pipelines.runs.best.shutil.rmtree",
    ],
)
def test_a_kill_at_any_moment_leaves_one(tmp_path, monkeypatch, place, number):
    parts = {"policy": torch.nn.Linear(1, 1)}
    with Run(tmp_path / "run", "mine", settings=SETTINGS) as opened:
        folder = opened.folder
        opened.keep_best(1, parts, 1.0)
        monkeypatch.setattr(place, killed_at(number, resolve_name(place)))
        last = 1
        for last in range(2, 6):
            try:
                opened.keep_best(last, parts, float(last))
            except Killed:
                break
        monkeypatch.undo()
        found = read_best(folder)
        assert found.frames in (last - 1, last)
        assert read_manifest(found.path)["metadata"]["frames"] == found.frames
        opened.keep_best(9, parts, 9.0)
        assert agents(folder) == ["best-000000000009"]


@pytest.mark.parametrize("kind", ["cartpole", "acrobot"])
@pytest.mark.parametrize("kill", [("learn", 9), ("evaluate", 3), ("collect", 20)])
def test_a_resumed_run_has_the_same_best(tmp_path, whole, kind, kill):
    config = make_config("a2c", kind)
    killed(tmp_path / "run", "a2c", config, *kill)
    go(tmp_path / "run", "a2c", config)
    expected = read_best(whole("a2c", config))
    found = read_best(tmp_path / "run")
    assert (found.frames, found.score, found.path.name) == (expected.frames, expected.score, expected.path.name)
    assert read_manifest(found.path) == read_manifest(expected.path)
    assert fingerprint(tmp_path / "run") == fingerprint(whole("a2c", config))


def test_a_longer_run_keeps_its_idea_of_the_best(tmp_path):
    config = make_config("a2c", "cartpole")
    go(tmp_path / "run", "a2c", config)
    with Run(tmp_path / "run", "small", built_from=BuiltFrom("a2c", config), resume=True) as opened:
        opened.keep_best(5, {"policy": torch.nn.Linear(1, 1)}, 1e9)
    go(tmp_path / "run", "a2c", lengthened(config, total_frames=6000))
    assert (read_best(tmp_path / "run").frames, agents(tmp_path / "run")) == (5, ["best-000000000005"])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run whose best evaluation is not its last."""
    folder = tmp_path_factory.mktemp("finished") / "run@home"
    small = {"total_frames": 1024, "num_envs": 4, "rollout_steps": 32, "minibatch_size": 64, "hidden": (8,)}
    options = {**small, "eval_every": 256, "eval_episodes": 2, "final_eval_episodes": 2, "checkpoint_every": 512}
    run_recipe("ppo", folder=folder, loggers=None, **options)
    built_from = BuiltFrom("ppo", _config(folder))
    with Run(folder, "ppo", built_from=built_from, resume=True) as opened, trained(folder) as agent:
        opened.keep_best(256, {"policy": agent.policy, "loss": agent.pipeline.state["loss"]}, 501.0)
    return folder


def _config(folder):
    with trained(folder) as agent:
        return agent.config


@pytest.fixture
def here(finished, tmp_path, monkeypatch):
    shutil.copytree(finished, tmp_path / "run@home")
    monkeypatch.chdir(tmp_path)
    return Path("run@home")


@pytest.mark.parametrize(
    ("which", "name"),
    [
        ("", "frames-000000001024"),
        ("@last", "frames-000000001024"),
        ("@best", "best-000000000256"),
        ("@256", "best-000000000256"),
        ("@512", "frames-000000000512"),
        ("@0000512", "frames-000000000512"),
        ("/@best", "best-000000000256"),
        ("/checkpoints/best-000000000256", "best-000000000256"),
    ],
)
def test_names_of_checkpoints(here, which, name):
    assert read_run(Path(f"{here}{which}"))[1].name == name
    with trained(f"{here}{which}") as agent:
        assert agent.checkpoint.name == name


@pytest.mark.parametrize("which", ["best", "last", "256"])
def test_commands_take_them(here, which, capsys):
    path = f"{here}@{which}"
    expected = str(read_run(Path(path))[1])
    assert run(["evaluate", path, "--episodes", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["checkpoint"] == expected
    assert run(["render", path, "--quiet", "--max-steps", "2", "--size", "32", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["checkpoint"] == expected
    assert run(["export", path]) == 0
    assert Path(f"ppo-0-{256 if which != 'last' else 1024}.safetensors").is_file()
    small = ["--total-frames", "64", "--num-envs", "2", "--rollout-steps", "16", "--minibatch-size", "16"]
    train = ["train", "ppo", *small, "--hidden", "8", "--final-eval-episodes", "1", "--quiet", "--run-dir", "next"]
    assert run([*train, "--start-from", path]) == 0
    assert json.loads(Path("next/config.json").read_text())["start_from"] == path


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("run@home@first", "has no checkpoint 'first'; after @ goes best, last, or one of the frames 256, 512, 1024"),
        ("run@home@7", "has no checkpoint '7'"),
        ("run@home@99999999999999999999", "has no checkpoint '99999999999999999999'"),
        ("run@home@", "is no run"),
        ("nothing@best", "nothing is no run"),
        ("run@home/checkpoints/frames-000000000512@best", "@best goes after the run folder that it is in"),
    ],
)
def test_what_is_no_name_of_a_checkpoint(here, path, words, capsys):
    for command in ("evaluate", "export", "render"):
        assert run([command, path]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line


def test_a_run_is_not_resumed_from_it(here, capsys):
    assert run(["resume", f"{here}@best"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(
        "run@home@best is a checkpoint, and a run is continued from its newest one: rlpipe resume run@home; to start a "
        "new run from this checkpoint: rlpipe train RECIPE --start-from run@home@best"
    )
    assert run(["resume", str(here / "checkpoints" / "best-000000000256")]) == 2
    assert "is a checkpoint; name the run folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    "mark",
    [
        None,
        "",
        '{"frames": 256, "mean": 501.0, "checkpoint": "best-000000000300"}',
        '{"frames": 256, "mean": NaN, "checkpoint": "best-000000000256"}',
        '{"frames": 256, "mean": 501.0, "checkpoint": "../../run@home/checkpoints/best-000000000256"}',
    ],
)
def test_a_run_without_a_mark_has_no_best(here, mark, capsys):
    (here / "best.json").unlink()
    if mark is not None:
        (here / "best.json").write_text(mark)
    assert run(["evaluate", f"{here}@best"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "has no best checkpoint: one is kept at each evaluation" in line
    # it is no obstacle to anything else
    assert run(["evaluate", str(here), "--episodes", "1"]) == 0
    assert run(["resume", str(here), "--total-frames", "1280", "--quiet"]) == 0
    assert read_best(here) is not None
    assert agents(here) == [read_best(here).path.name]


def test_one_that_is_damaged_or_renamed(here):
    found = read_best(here).path
    (found / "policy.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="component 'policy' is damaged"), trained(f"{here}@best"):
        pass
    found.rename(found.with_name("best-000000000300"))
    with pytest.raises(CheckpointError, match="was renamed"), trained(here / "checkpoints" / "best-000000000300"):
        pass
    assert newest_checkpoint(here).name == "frames-000000001024"
