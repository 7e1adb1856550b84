"""Runs of an algorithm that rlpipe does not have: what they write, and who reads it."""

import json
import random

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torchrl.collectors import Collector

from rlpipe.errors import CheckpointError, ConfigError
from rlpipe.modules import MLP, QActor
from rlpipe.pipelines.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from rlpipe.pipelines.collectors.collector import SyncDataCollector
from rlpipe.pipelines.collectors.evaluation import evaluate
from rlpipe.pipelines.envs import EnvConfig, make_env
from rlpipe.pipelines.pipeline import Pipeline
from rlpipe.pipelines.runs.run import Run
from rlpipe.pipelines.seeding import Seeds
from rlpipe.pipelines.training.loop import train
from rlpipe.scripts.main import run as command

SETTINGS = {"env_id": "CartPole-v1", "seed": 3, "total_frames": 256, "step": 0.5}


def go(folder, *, resume=False, state=(), make_collector=SyncDataCollector, killed_at=None, **changes):
    """Train something that learns nothing, and write what a run has."""
    settings = {**SETTINGS, **changes}
    env_config = EnvConfig("CartPole-v1", 4)
    env = make_env(env_config, seed=0)
    torch.manual_seed(0)
    policy = QActor(MLP(4, 2), env.action_spec)

    def learn(batch):
        nonlocal seen
        seen += batch.numel()
        if killed_at is not None and seen > killed_at:
            raise KeyboardInterrupt
        return TensorDict({"loss_x": batch["observation"].abs().mean(), "updates": torch.tensor(1)})

    collector = make_collector(env, policy, frames_per_batch=64, total_frames=settings["total_frames"])
    parts, seen = {"policy": policy, "random": Seeds(3), **dict(state)}, 0
    parts = {name: part for name, part in parts.items() if part is not None}
    with Run(folder, "mine", settings=settings, resume=resume) as run:
        result = train(Pipeline(collector, learn, policy, parts), run, checkpoint_every=128)
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
    with pytest.raises(CheckpointError, match="another run: its algorithm or config differs"):
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


def test_a_state_without_the_policy_is_completed(tmp_path):
    go(tmp_path / "run", state={"policy": None})
    assert (tmp_path / "run" / "checkpoints" / "frames-000000000256" / "policy.safetensors").is_file()


def test_a_part_that_the_state_no_longer_names_is_told_of(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "run", killed_at=128)
    with pytest.raises(CheckpointError, match="has a component 'random', which the pipeline's state lacks"):
        go(tmp_path / "run", resume=True, state={"random": None})
    assert go(tmp_path / "run", resume=True).frames == 256


def test_a_collector_whose_environments_no_checkpoint_holds_gets_its_frames_and_a_warning(tmp_path, caplog):
    def stock(env, policy, **options):
        return Collector(env, policy, auto_register_policy_transforms=False, **options)

    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "run", make_collector=stock, killed_at=128)
    assert "environments" not in caplog.text
    assert go(tmp_path / "run", make_collector=stock, resume=True).frames == 256
    assert "checkpoints cannot save this collector's environments" in caplog.text


@pytest.mark.parametrize("made", [None, {"updates": 1}, TensorDict(), TensorDict(updates=torch.ones(2), batch_size=[])])
def test_what_learn_must_not_return(made):
    env = make_env(EnvConfig("CartPole-v1", 4), seed=0)
    policy = QActor(MLP(4, 2), env.action_spec)
    collector = SyncDataCollector(env, policy, frames_per_batch=64, total_frames=64)
    with pytest.raises(ValueError, match="learn returned .*, expected a"):
        train(Pipeline(collector, lambda _: made, policy))


def test_what_the_process_draws_after_a_resumed_run_is_its_own(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "run", killed_at=128)
    random.seed(8)
    np.random.seed(8)  # noqa: NPY002 - the global one is meant
    before = repr((random.getstate(), np.random.get_state()))  # noqa: NPY002
    go(tmp_path / "run", resume=True)
    assert repr((random.getstate(), np.random.get_state())) == before  # noqa: NPY002


def test_a_schedule_does_not_bring_its_old_length_back(tmp_path):
    def schedule(steps):
        parameter = torch.nn.Parameter(torch.zeros(1))
        return torch.optim.lr_scheduler.LinearLR(torch.optim.Adam([parameter]), 1.0, 0.0, steps)

    save_checkpoint(tmp_path / "frames-000000000001", {"schedule": schedule(10)}, {"frames": 1})
    load_checkpoint(tmp_path / "frames-000000000001", {"schedule": schedule(10)})
    with pytest.raises(CheckpointError, match="LinearLR had total_iters 10 and has 20 now"):
        load_checkpoint(tmp_path / "frames-000000000001", {"schedule": schedule(20)})
