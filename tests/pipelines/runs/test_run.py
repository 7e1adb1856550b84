"""Run folders and checkpoints: what is written, and what is refused on the way back."""

import json
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rlpipe.errors import CheckpointError, ConfigError
from rlpipe.pipelines.algorithms import dqn, ppo
from rlpipe.pipelines.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from rlpipe.pipelines.checkpoints.names import newest_checkpoint
from rlpipe.pipelines.progress import Evaluation
from rlpipe.pipelines.runs.read import read_run
from rlpipe.pipelines.runs.restore import note_resume
from rlpipe.pipelines.runs.run import BuiltFrom, Run
from rlpipe.pipelines.runs.versions import versions
from rlpipe.pipelines.seeding import Seeds


@pytest.fixture
def finished(tmp_path):
    """A run folder with two batches, an evaluation and two checkpoints."""
    run = Run(tmp_path / "run", "ppo", built_from=BuiltFrom("ppo", ppo.Config(seed=3)))
    run.log_batch(10, {"loss_policy": 0.5, "seconds": 1.0}, [7.0, 9.0], [7, 9])
    run.log_batch(20, {"loss_policy": 0.25, "seconds": 2.0}, [], [])
    run.log_evaluation(20, Evaluation((5.0, 6.0), (5, 6)), seconds=2.0)
    network = torch.nn.Linear(2, 3)
    for frames in (10, 20):
        run.checkpoint(frames, {"policy": network, "random": Seeds(0)})
    run.draw()
    run.close()
    return run.folder


def test_files(finished):
    metrics = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert metrics[0] == {"frames": 10, "loss_policy": 0.5, "seconds": 1.0, "returns": [7.0, 9.0], "lengths": [7, 9]}
    evaluation = json.loads((finished / "evaluations.jsonl").read_text())
    assert evaluation == {"frames": 20, "seconds": 2.0, "final": False, "returns": [5.0, 6.0], "lengths": [5, 6]}
    described = json.loads((finished / "config.json").read_text())
    assert (described["recipe"], described["algorithm"], described["config"]["seed"]) == ("ppo", "ppo", 3)
    assert json.loads((finished / "versions.json").read_text()) == versions()
    assert (finished / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_compiled_run_says_that_the_compiler_is_another_one(tmp_path, monkeypatch, caplog):
    built_from = BuiltFrom("ppo", ppo.Config(compile=True))
    Run(tmp_path / "run", "ppo", built_from=built_from).close()
    assert "compiler" in json.loads((tmp_path / "run" / "versions.json").read_text())
    note_resume(tmp_path / "run", 10)
    assert not caplog.records
    monkeypatch.setenv("CXX", str(tmp_path / "nowhere"))
    note_resume(tmp_path / "run", 20)
    assert "compiler changed since the run began" in caplog.text
    lines = (tmp_path / "run" / "resumes.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["versions"]["compiler"] is None


def test_tensorboard_reads_the_events(finished):
    events = EventAccumulator(str(finished / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss/policy")] == [(10, 0.5), (20, 0.25)]
    assert [(event.step, event.value) for event in events.Scalars("train/return")] == [(10, 8.0)]
    assert [(event.step, event.value) for event in events.Scalars("eval/return")] == [(20, 5.5)]
    assert {"time/seconds", "train/length"} <= set(events.Tags()["scalars"])


def test_an_existing_folder_is_left_alone(finished):
    before = sorted(path.name for path in finished.iterdir())
    with pytest.raises(ConfigError, match="exists already; nothing was overwritten"):
        Run(finished, "ppo", built_from=BuiltFrom("ppo", ppo.Config()))
    assert sorted(path.name for path in finished.iterdir()) == before


def test_any_existing_folder_is_left_alone(tmp_path):
    (tmp_path / "config.json").write_text("mine")
    with pytest.raises(ConfigError, match="exists already"):
        Run(tmp_path, "ppo", built_from=BuiltFrom("ppo", ppo.Config()))
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    "content", ["[]", "3", '["recipe", "algorithm", "config"]', '{"recipe": 1, "algorithm": 1, "config": null}']
)
def test_a_config_of_another_kind_is_refused(finished, content):
    (finished / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match="is not one that rlpipe wrote"):
        read_run(finished)


@pytest.mark.parametrize("content", ["", "3", "[]", "null", "{}", '{"content":{},"digest":""}', "[" * 100_000])
def test_a_manifest_of_another_kind_is_refused(finished, content):
    checkpoint = newest_checkpoint(finished)
    (checkpoint / "checkpoint.json").write_text(content)
    with pytest.raises(CheckpointError, match="is damaged: checkpoint.json is not what was written"):
        load_checkpoint(checkpoint, {"policy": torch.nn.Linear(2, 3)})


def test_a_stray_file_is_no_checkpoint(finished, monkeypatch):
    newest = newest_checkpoint(finished)
    (finished / "checkpoints" / "frames-notes.txt").write_text("mine")
    (finished / "checkpoints" / "frames-999").write_text("mine")
    assert newest_checkpoint(finished) == newest
    monkeypatch.chdir(newest)
    assert read_run(Path())[1] == newest


def test_read_run_takes_a_folder_or_a_checkpoint(finished):
    newest = finished / "checkpoints" / "frames-000000000020"
    assert newest_checkpoint(finished) == newest
    assert read_run(finished)[1] == newest
    other = finished / "checkpoints" / "frames-000000000010"
    described, checkpoint = read_run(other)
    assert (described["recipe"], checkpoint) == ("ppo", other)


def test_read_run_refuses_what_is_no_run(finished, tmp_path):
    with pytest.raises(CheckpointError, match="nothing is no run: there is no such folder"):
        read_run(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="empty is no run: it has no config.json"):
        read_run(tmp_path / "empty")
    with pytest.raises(CheckpointError, match=f"is no run: the newest of the runs in it is {finished}$"):
        read_run(finished.parent)
    (finished / "config.json").write_text('{"recipe": "ppo"}')
    with pytest.raises(CheckpointError, match="is not one that rlpipe wrote"):
        read_run(finished)


def test_a_run_without_checkpoints_says_so(tmp_path):
    run = Run(tmp_path / "run", "ppo", built_from=BuiltFrom("ppo", ppo.Config()))
    run.close()
    with pytest.raises(CheckpointError, match="has no checkpoint yet"):
        read_run(run.folder)


def test_a_checkpoint_brings_everything_back(tmp_path):
    config = dqn.Config(total_frames=1500, warmup_frames=256, num_envs=4, tau=0.5, lr_schedule="linear")
    trained, fresh = dqn.build(config), dqn.build(dqn.Config(**{**vars(config), "seed": 1}))
    for batch in trained.collector:
        trained.learn(batch)
    save_checkpoint(tmp_path / "checkpoint", trained.state, {})
    assert {path.suffix for path in (tmp_path / "checkpoint").iterdir()} == {".json", ".safetensors"}
    load_checkpoint(tmp_path / "checkpoint", fresh.state)
    for name in ("policy", "loss"):
        for key, value in trained.state[name].state_dict().items():
            other = fresh.state[name].state_dict()[key]
            assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other
    # the same minibatches, and so the same next steps, only if buffer, generators, optimiser and schedule are back
    for _ in range(2):
        ours, theirs = trained.learn(batch), fresh.learn(batch)
        for key in ours.keys():
            assert torch.equal(ours[key], theirs[key]), key
    trained.close()
    fresh.close()


def damage(checkpoint, component, how):
    file = checkpoint / f"{component}.safetensors"
    content = file.read_bytes()
    if how == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif how == "flipped":
        file.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    elif how == "removed":
        file.unlink()
    else:
        file = file.with_name("added.safetensors")
        file.write_bytes(content)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("truncated", "component 'policy' is damaged, policy.safetensors is not what was written"),
        ("flipped", "component 'policy' is damaged, policy.safetensors is not what was written"),
        ("removed", "component 'policy' is incomplete, policy.safetensors is missing"),
        ("added", "component 'added' is damaged, added.safetensors is not what was written"),
    ],
)
def test_damaged_checkpoints_name_file_and_component(finished, how, words):
    checkpoint = newest_checkpoint(finished)
    damage(checkpoint, "policy", how)
    network = torch.nn.Linear(2, 3)
    before = network.weight.clone()
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(checkpoint, {"policy": network})
    assert torch.equal(network.weight, before)


def test_foreign_checkpoints_are_refused(finished, tmp_path):
    checkpoint = newest_checkpoint(finished)
    with pytest.raises(CheckpointError, match="component 'policy' does not fit: .*size mismatch for weight"):
        load_checkpoint(checkpoint, {"policy": torch.nn.Linear(5, 3)})
    with pytest.raises(CheckpointError, match="has no component 'replay'; it has"):
        load_checkpoint(checkpoint, {"replay": torch.nn.Linear(5, 3)})
    (tmp_path / "other").mkdir()
    with pytest.raises(CheckpointError, match="is no checkpoint of this version of rlpipe: it has no checkpoint.json"):
        load_checkpoint(tmp_path / "other", {"policy": torch.nn.Linear(2, 3)})


def test_a_checkpoint_is_not_overwritten_and_leaves_no_partial_one(tmp_path):
    path = tmp_path / "checkpoint"
    save_checkpoint(path, {"policy": torch.nn.Linear(2, 3)}, {})
    with pytest.raises(CheckpointError, match="exists already"):
        save_checkpoint(path, {"policy": torch.nn.Linear(2, 3)}, {})
    assert [each.name for each in tmp_path.iterdir()] == ["checkpoint"]


def test_seeds_are_independent_streams_by_name():
    seeds, same, other = Seeds(0), Seeds(0), Seeds(1)
    assert seeds.integer("replay") == same.integer("replay")
    assert len({seeds.integer("replay"), seeds.integer("exploration"), other.integer("replay")}) == 3
    assert seeds.generator("replay") is seeds.generator("replay")
    drawn = torch.rand(3, generator=seeds.generator("replay"))
    assert torch.equal(drawn, torch.rand(3, generator=same.generator("replay")))


def test_seeded_block_puts_the_global_generator_back():
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    with Seeds(0).torch_seeded("initialization"):
        first = torch.rand(2)
    assert torch.equal(torch.rand(2), expected)
    with Seeds(0).torch_seeded("initialization"):
        assert torch.equal(torch.rand(2), first)
