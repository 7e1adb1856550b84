"""A run that was killed and resumed ends as one that never was: the same weights, buffer, streams and journals."""

import json
import logging

import pytest
from comparing import fingerprint
from resuming import (
    ALGORITHMS,
    CONTINUOUS,
    KINDS,
    MOVING,
    TABLES,
    WRITING,
    WRITTEN,
    Whole,
    batches,
    go,
    killed,
    lengthened,
    make_config,
    text,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rlpipe.errors import CheckpointError
from rlpipe.pipelines.algorithms.recipes import RECIPES, builder
from rlpipe.pipelines.build.weights import load_weights
from rlpipe.pipelines.checkpoints.checkpoint import read_manifest
from rlpipe.pipelines.checkpoints.names import checkpoints, frames_of, newest_checkpoint
from rlpipe.pipelines.config.run import settings_of
from rlpipe.pipelines.config.start import find_start

BOTH = ["cartpole", "frozen-lake"]
"""An environment that is captured, and one that is synchronised."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return Whole(tmp_path_factory)


SMALL = [
    *[(algorithm, kind) for algorithm in ALGORITHMS if algorithm not in (*TABLES, *CONTINUOUS) for kind in BOTH],
    *[(algorithm, "pendulum") for algorithm in CONTINUOUS],
    *[(algorithm, kind) for algorithm in TABLES for kind in ("maze", "frozen-lake")],
    ("dqn", "maze"),
    ("dqn", "acrobot"),
    ("dqn", "envpool"),
    ("ppo", "mujoco"),
    ("ppo", "family"),
    ("ppo", "tensors"),
    ("dqn", "walk"),
    ("ppo", "gru"),
    ("ppo", "lstm"),
    ("ppo", "lstm-acrobot"),
    ("a2c", "gru-lake"),
    ("reinforce", "gru"),
    ("reinforce", "gru-lake"),
    ("a2c", "pixels-maze"),
    ("a2c", "pixels-lake"),
    # SWIG's types, which Box2D brings, have no module
    pytest.param("reinforce", "box2d", marks=pytest.mark.filterwarnings("ignore:builtin type .* has no __module__")),
]


def test_no_algorithm_is_forgotten_here():
    assert set(ALGORITHMS) == {recipe.algorithm for recipe in RECIPES.values()}


@pytest.mark.parametrize(("algorithm", "kind"), SMALL)
def test_killed_twice_is_as_never_killed(algorithm, kind, whole, tmp_path):
    config = make_config(algorithm, kind)
    run = tmp_path / "run"
    killed(run, algorithm, config, "learn", int(0.6 * batches(config)))
    assert json.loads((run / "config.json").read_text())["environments"] == KINDS[kind].keeps
    if KINDS[kind].keeps == "synchronised":
        newest = newest_checkpoint(run)
        saved = dict(read_manifest(newest)["components"]["environments"]["dict"])
        assert (saved["synchronised"], saved["actions"]) == (frames_of(newest), None)
    # counted from the checkpoint at a third
    killed(run, algorithm, config, "collect", int(0.5 * batches(config)))
    go(run, algorithm, config)
    assert fingerprint(run) == fingerprint(whole(algorithm, config))
    assert [json.loads(line)["frames"] > 0 for line in text(run, "resumes").splitlines()] == [True, True]


def test_environments_in_processes(whole, tmp_path):
    config = make_config("a2c", "workers", eval_every=10_000, total_frames=1500)
    killed(tmp_path / "run", "a2c", config, "learn", 10)
    go(tmp_path / "run", "a2c", config)
    assert fingerprint(tmp_path / "run") == fingerprint(whole("a2c", config))


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize(
    ("place", "number"),
    [
        ("learn", 2),
        ("evaluate", 1),
        ("evaluate", 3),
        ("evaluate", 4),
        (WRITING, 1),
        (WRITING, 3),
        (MOVING, 5),
        (WRITTEN, 2),
        ("removing", 1),
    ],
)
def test_killed_anywhere(kind, place, number, whole, tmp_path):
    # lines of metrics that cover several batches, and checkpoints between them; some are after an evaluation
    config = make_config("a2c", kind, checkpoint_every=600, eval_every=600, log_every=500)
    run = tmp_path / "run"
    killed(run, "a2c", config, place[0] if isinstance(place, tuple) else place, number)
    left = {path.suffix for path in (run / "checkpoints").glob(".*")}
    assert left == {WRITING: {".partial"}, MOVING: {".partial"}, "removing": {".removed"}}.get(place, set())
    go(run, "a2c", config)
    assert fingerprint(run) == fingerprint(whole("a2c", config))
    assert not list((run / "checkpoints").glob(".*"))


def test_a_finished_run_stays_as_it_is(tmp_path):
    config = make_config("dqn", "cartpole")
    go(tmp_path / "run", "dqn", config)
    before = fingerprint(tmp_path / "run"), text(tmp_path / "run", "metrics")
    manifest = newest_checkpoint(tmp_path / "run") / "checkpoint.json"
    written = manifest.stat().st_mtime_ns
    result = go(tmp_path / "run", "dqn", config)
    assert (fingerprint(tmp_path / "run"), text(tmp_path / "run", "metrics")) == before
    assert manifest.stat().st_mtime_ns == written
    assert result.frames == 3008


@pytest.mark.parametrize("kind", [*BOTH, "acrobot"])
@pytest.mark.parametrize("log_every", [1, 700])
def test_more_frames_give_what_a_longer_run_gives(kind, log_every, whole, tmp_path):
    config = make_config("a2c", kind, lr_schedule="constant", log_every=log_every)
    run = tmp_path / "run"
    go(run, "a2c", lengthened(config, total_frames=1500))
    go(run, "a2c", config)
    assert json.loads(text(run, "resumes"))["frames"] == 1536
    assert fingerprint(run) == fingerprint(whole("a2c", config))
    assert json.loads((run / "config.json").read_text())["config"]["total_frames"] == config.total_frames


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_more_frames_go_on_with_the_learning_rate_of_the_longer_schedule(schedule, whole, tmp_path):
    config = make_config("a2c", "cartpole", lr_schedule=schedule, log_every=1)
    run = tmp_path / "run"
    go(run, "a2c", lengthened(config, total_frames=1500))
    go(run, "a2c", config)
    ours, longer = (
        {line["frames"]: line["learning_rate"] for line in map(json.loads, text(each, "metrics").splitlines())}
        for each in (run, whole("a2c", config))
    )
    assert ours.keys() == longer.keys()
    same = {frames for frames in ours if ours[frames] == pytest.approx(longer[frames], rel=1e-6)}
    assert same == {frames for frames in ours if frames == 128 or frames > 1536}


@pytest.mark.parametrize(
    ("kind", "rule", "reason"),
    [
        ("cartpole", {"total_episodes": 80}, "80 episodes"),
        ("frozen-lake", {"total_episodes": 150}, "150 episodes"),
        # a window that reaches back over the kill
        ("cartpole", {"stop_window": 60, "stop_at_mean": 1.0}, "over 60 episodes"),
        ("frozen-lake", {"stop_after_successes": 150, "success_return": 0.0}, "150 successes in a row"),
    ],
)
def test_stopping_rules_continue(kind, rule, reason, whole, tmp_path):
    config = make_config("a2c", kind, checkpoint_every=400, **rule)
    run, reference = tmp_path / "run", whole("a2c", config)
    ends = int(newest_checkpoint(reference).name.removeprefix("frames-")) // 128
    assert ends < 3000 // 128
    killed(run, "a2c", config, "learn", ends)
    result = go(run, "a2c", config)
    assert reason in result.stopped_by
    assert fingerprint(run) == fingerprint(reference)
    # and that it has stopped is not forgotten
    assert go(run, "a2c", config).frames == result.frames


@pytest.mark.parametrize("batch", [1, 20])
def test_a_run_that_starts_from_another_goes_on_without_it(batch, tmp_path, whole):
    config = make_config("dqn", "frozen-lake", seed=5)
    other = whole("dqn", make_config("dqn", "frozen-lake"))
    start = find_start(other, (), config, recipe="dqn", algorithm="dqn")

    def make(config):
        pipeline = builder("dqn")(config)
        load_weights(pipeline, settings_of(config), start)
        return pipeline

    go(tmp_path / "whole", "dqn", config, make=make, start_from="other")
    killed(tmp_path / "run", "dqn", config, "learn", batch, make=make, start_from="other")
    go(tmp_path / "run", "dqn", config)
    assert fingerprint(tmp_path / "run") == fingerprint(tmp_path / "whole")


@pytest.mark.parametrize("file", ["policy.safetensors", "checkpoint.json"])
def test_a_damaged_checkpoint_is_passed_over(file, whole, tmp_path, caplog):
    config = make_config("a2c", "frozen-lake", checkpoint_every=500)
    run = tmp_path / "run"
    killed(run, "a2c", config, "learn", 20)
    newest = newest_checkpoint(run)
    content = (newest / file).read_bytes()
    (newest / file).write_bytes(content[:-40] + b"x" * 40)
    with caplog.at_level(logging.WARNING, "rlpipe"):
        go(run, "a2c", config)
    assert f"checkpoint {newest}" in caplog.text
    assert "damaged" in caplog.text
    assert "resuming from an older one" in caplog.text
    assert fingerprint(run) == fingerprint(whole("a2c", config))
    assert newest.with_name(f"{newest.name}.damaged").is_dir()


def test_if_every_checkpoint_is_damaged_nothing_is_changed(tmp_path):
    config = make_config("a2c", "cartpole", checkpoint_every=500)
    run = tmp_path / "run"
    killed(run, "a2c", config, "learn", 20)
    found = checkpoints(run)
    for each in found:
        (each / "checkpoint.json").write_text("")
    before = text(run, "metrics")
    with pytest.raises(CheckpointError, match="is damaged"):
        go(run, "a2c", config)
    assert checkpoints(run) == found
    assert text(run, "metrics") == before


def test_events_are_not_doubled(whole, tmp_path):
    config = make_config("a2c", "cartpole")
    killed(tmp_path / "run", "a2c", config, "learn", 15)
    killed(tmp_path / "run", "a2c", config, "learn", 15)
    go(tmp_path / "run", "a2c", config)
    ours, theirs = (
        EventAccumulator(str(folder / "tensorboard")).Reload() for folder in (tmp_path / "run", whole("a2c", config))
    )
    tags = set(theirs.Tags()["scalars"])
    assert set(ours.Tags()["scalars"]) == tags
    for tag in tags:
        steps = [[event.step for event in each.Scalars(tag)] for each in (ours, theirs)]
        assert steps[0] == steps[1], tag
        if not tag.startswith("time/"):
            assert [event.value for event in ours.Scalars(tag)] == [event.value for event in theirs.Scalars(tag)]
