"""Runs of an algorithm that rlpipe does not have: what they write, and who reads it."""

import json

import pytest
import torch
from tensordict import TensorDict

from rlpipe.errors import CheckpointError, ConfigError
from rlpipe.modules import MLP, QActor
from rlpipe.pipelines.collector import SyncDataCollector
from rlpipe.pipelines.envs import EnvConfig, make_env
from rlpipe.pipelines.evaluation import evaluate
from rlpipe.pipelines.pipeline import Pipeline
from rlpipe.pipelines.run import Run
from rlpipe.pipelines.training import train
from rlpipe.scripts.main import run as command

SETTINGS = {"env_id": "CartPole-v1", "seed": 3, "total_frames": 256, "step": 0.5}


def go(folder, *, resume=False, **changes):
    """Train something that learns nothing, and write what a run has."""
    settings = {**SETTINGS, **changes}
    env_config = EnvConfig("CartPole-v1", 4)
    env = make_env(env_config, seed=0)
    torch.manual_seed(0)
    policy = QActor(MLP(4, 2), env.action_spec)

    def learn(batch):
        return TensorDict({"loss_x": batch["observation"].abs().mean(), "updates": torch.tensor(1)})

    collector = SyncDataCollector(env, policy, frames_per_batch=64, total_frames=settings["total_frames"])
    with Run(folder, "mine", settings=settings, resume=resume) as run:
        result = train(Pipeline(collector, learn, policy, {"policy": policy}), run, checkpoint_every=128)
        evaluation = evaluate(policy, env_config, episodes=3, seed=1)
        run.log_evaluation(result.frames, evaluation, seconds=result.seconds, final=True)
        run.draw()
    return result


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own") / "run"
    go(str(folder))
    return folder


def test_what_is_written(made):
    described = json.loads((made / "config.json").read_text())
    assert (described["recipe"], described["algorithm"], described["config"]) == ("mine", "mine", SETTINGS)
    assert len((made / "metrics.jsonl").read_text().splitlines()) == 4
    assert (made / "curve.png").is_file()
    assert [path.name for path in sorted((made / "checkpoints").iterdir())] == [
        "frames-000000000128",
        "frames-000000000256",
    ]


def test_the_table_shows_its_settings(made, capsys):
    assert command(["table", str(made), "--json"]) == 0
    captured = capsys.readouterr()
    (row,) = json.loads(captured.out)["rows"]
    assert (row["label"], row["env_id"], row["seeds"]) == (
        "mine --total-frames 256 --step 0.5",
        "CartPole-v1",
        [3],
    )
    assert captured.err == ""


@pytest.mark.parametrize("name", ["resume", "evaluate"])
def test_commands_that_would_build_it_refuse(name, made, capsys):
    assert command([name, str(made)]) == 2
    err = capsys.readouterr().err
    assert "no algorithm is called 'mine'" in err
    assert "by the program that trained it" in err
    assert err.count("\n") == 1


def test_it_goes_on_to_more_frames_and_not_with_other_settings(made, tmp_path):
    go(tmp_path / "run")
    assert go(tmp_path / "run", resume=True, total_frames=384).frames == 384
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["frames"] for line in lines] == [64, 128, 192, 256, 320, 384]
    with pytest.raises(CheckpointError, match="another algorithm or config"):
        go(tmp_path / "run", resume=True, step=0.25)
    with pytest.raises(ConfigError, match="exists already"):
        go(tmp_path / "run")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (None, "env_id is None"),
        ({"env_id": "CartPole-v1"}, "seed is None"),
        ({"env_id": "CartPole-v1", "seed": "1"}, "seed is '1'"),
        ({"env_id": "CartPole-v1", "seed": 1, "lr": torch.tensor(1.0)}, "settings must be JSON values"),
        ({"env_id": "CartPole-v1", "seed": 1, "lr": float("nan")}, "settings must be JSON values"),
    ],
)
def test_settings_that_are_none(settings, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        Run(tmp_path / "run", "mine", settings=settings)
    assert not (tmp_path / "run").exists()
