"""Collectors in processes of their own: the same numbers as in one, resumed to the bit, and told of when they fail."""

import multiprocessing
import os
import re
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from comparing import fingerprint, same_weights
from forked import Python, spawning_quickly
from resuming import go, killed, make_config

from rlpipe.errors import ConfigError, TrainingError
from rlpipe.modules import MLP, CategoricalActor
from rlpipe.pipelines.algorithms import dqn, ppo
from rlpipe.pipelines.algorithms.recipes import builder
from rlpipe.pipelines.build.environment import make_training_env
from rlpipe.pipelines.collectors.processes import AsyncProcesses, SyncProcesses
from rlpipe.pipelines.collectors.worker import PolicyCopy, generators_of, get_streams, shares
from rlpipe.pipelines.seeding import Seeds
from rlpipe.pipelines.training.loop import train

TWO = {"collector": "processes", "num_collectors": 2}


@pytest.fixture(scope="module", autouse=True)
def _quick():
    with spawning_quickly():
        yield


@pytest.fixture(autouse=True)
def _no_process_is_left():
    yield
    until = time.monotonic() + 60
    while left := [child for child in multiprocessing.active_children() if "Spawn" in type(child).__name__]:
        assert time.monotonic() < until, left
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("algorithm", "kind"),
    [
        ("ppo", "cartpole"),
        ("dqn", "acrobot"),
        ("sarsa", "maze"),
        ("ppo", "normalized"),
        ("a2c", "mujoco"),
        ("ppo", "gru"),
    ],
    ids=lambda each: each,
)
def test_one_collector_gives_the_same_run_as_none(algorithm, kind, tmp_path):
    config = make_config(algorithm, kind)
    go(tmp_path / "local", algorithm, config)
    go(tmp_path / "processes", algorithm, replace(config, collector="processes"))
    local, multi = fingerprint(tmp_path / "local"), fingerprint(tmp_path / "processes")
    # a list of them there
    local.pop("environments"), multi.pop("environments")
    assert multi == local


@pytest.mark.parametrize(
    ("kind", "frames", "last"), [("cartpole", 2000, 1024), pytest.param("gru", 900, 640, marks=pytest.mark.slow)]
)
def test_two_collectors_go_on_to_the_bit_after_one_was_killed(kind, frames, last, tmp_path):
    config = replace(make_config("ppo", kind), total_frames=frames, **TWO)

    def stab(pipeline):
        learn, count = pipeline.learn, iter(range(100))

        def learn_or_stab(batch):
            if next(count) == 5:
                os.kill(pipeline.collector.procs[1].pid, signal.SIGKILL)
            return learn(batch)

        pipeline.learn = learn_or_stab

    with pytest.raises(TrainingError) as error:
        go(tmp_path / "cut", "ppo", config, during=stab)
    told = re.fullmatch(
        r"collector 1 of 2 died \(exit code -9\) .* the last good checkpoint is (\S+)", str(error.value)
    )
    assert Path(told[1]).name == f"frames-{last:012d}"
    go(tmp_path / "cut", "ppo", config)
    go(tmp_path / "whole", "ppo", config)
    assert fingerprint(tmp_path / "cut") == fingerprint(tmp_path / "whole")


@pytest.mark.parametrize("asynchronous", [False, True])
def test_statistics_of_two_collectors_are_those_of_all_that_they_saw(asynchronous):
    config = replace(make_config("ppo", "normalized"), env_id="clock:tests/Clock-v0", total_frames=1500, **TWO)
    env = make_training_env(config, Seeds(0))
    kind = AsyncProcesses if asynchronous else SyncProcesses
    actor = CategoricalActor(MLP(1, 2, (4,)), env.action_spec)
    collector = kind(
        shares(config.env, env, 2), actor, frames_per_batch=256, total_frames=1280, transforms=env.transform
    )
    observation, reward = env.transform
    seen, begun, numbers = [], set(), []
    try:
        for batch in collector:
            worker = int(batch.get(("collector", "worker"), torch.zeros(1))[0].flatten()[0]) if asynchronous else None
            if worker not in begun:
                seen.append(torch.zeros(len(batch)))
            begun.add(worker)
            # what is acted on next: the time, or 0 of the next episode
            seen.append((batch["next", "step_count"] * ~batch["next", "done"]).flatten().float())
            whole, moments = torch.cat(seen).double().numpy(), observation.each()[0].now
            assert moments.number == len(whole)
            np.testing.assert_allclose([moments.mean[0], moments.var[0]], [whole.mean(), whole.var()], rtol=1e-9)
            numbers.append(reward.moments.now.number)
    finally:
        collector.shutdown()
    assert numbers[:2] == [numbers[0], 2 * numbers[0]]
    assert len(numbers) >= 5
    assert all((norm == 0).all() for norm in [reward.returns])


def test_two_collectors_with_statistics_go_on_to_the_bit(tmp_path):
    for algorithm, kind in (("ppo", "normalized"), ("a2c", "mujoco")):
        config = replace(make_config(algorithm, kind), **TWO)
        go(tmp_path / f"whole-{kind}", algorithm, config)
        killed(tmp_path / f"cut-{kind}", algorithm, config, "learn", 6)
        go(tmp_path / f"cut-{kind}", algorithm, config)
        assert fingerprint(tmp_path / f"cut-{kind}") == fingerprint(tmp_path / f"whole-{kind}")


def test_two_collectors_of_environments_that_cannot_be_captured_go_on_to_the_bit(tmp_path):
    config = replace(make_config("a2c", "acrobot"), total_frames=2000, **TWO)
    go(tmp_path / "whole", "a2c", config)
    # past a planned checkpoint, whose episodes are cut and begun anew
    killed(tmp_path / "cut", "a2c", config, "learn", 11)
    go(tmp_path / "cut", "a2c", config)
    assert fingerprint(tmp_path / "cut") == fingerprint(tmp_path / "whole")


def test_collectors_share_the_policy_and_no_random_numbers():
    config = ppo.Config(num_envs=8, rollout_steps=16, minibatch_size=128, epochs=1, **TWO)
    pipeline = ppo.build(config)
    try:
        batches = iter(pipeline.collector)
        batch = next(batches)
        assert batch.shape == (8, 16)
        first, second = batch["observation"][:4, 0], batch["observation"][4:, 0]
        assert not np.intersect1d(first, second).size
        pipeline.learn(batch)
        batch = next(batches)
        # the log-probabilities are those of the policy that the learner has now
        expected = pipeline.policy.get_dist(batch).log_prob(batch["action"])
        torch.testing.assert_close(batch["action_log_prob"], expected)
        waiting = pipeline.collector.metrics(1e9)
        assert waiting["collectors_waiting"] == pytest.approx(1, abs=1e-6)
    finally:
        pipeline.close()


def test_copies_of_a_policy_draw_from_streams_of_their_own():
    pipeline = dqn.build(dqn.Config())
    learner = get_streams(pipeline.policy)
    first, second = (PolicyCopy(pipeline.policy, index)() for index in (0, 1))
    assert len(learner) == len(generators_of(first)) == 1
    assert np.array_equal(get_streams(first)[0], learner[0])
    assert not np.array_equal(get_streams(second)[0], learner[0])
    assert same_weights(first, pipeline.policy)
    assert np.array_equal(get_streams(pipeline.policy)[0], learner[0])
    pipeline.close()


def test_asynchronous_collection_is_behind_and_goes_on_after_a_stop(tmp_path):
    config = replace(make_config("dqn", "cartpole"), asynchronous=True, total_frames=2400, **TWO)
    stale, workers, starts = [], set(), []

    def watch(pipeline):
        learn = pipeline.learn

        def watched(batch):
            starts.append(batch["observation"][:, 0].clone())
            workers.update(batch["collector", "worker"].unique().tolist())
            assert batch.shape == (4, 2 * config.rollout_steps)
            stale.append(pipeline.collector.metrics(1.0)["staleness"])
            return learn(batch)

        pipeline.learn = watched

    killed(tmp_path / "run", "dqn", config, "evaluate", 3, during=watch)
    begun = starts[0]
    starts.clear()
    assert workers == {0, 1}
    assert stale[0] == 0
    # with two of them, one delivers while the learner learns from the other's
    assert max(stale) >= 1
    result = go(tmp_path / "run", "dqn", config, during=watch)
    assert result.frames == 2432
    assert "staleness" in (tmp_path / "run" / "metrics.jsonl").read_text()
    assert not torch.equal(starts[0], begun)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_infos_are_those_of_the_batch(asynchronous):
    sizes = {"num_envs": 4, "rollout_steps": 8, "warmup_frames": 32, "total_frames": 320}
    logged = {"env_id": "goals:tests/Runner-v0", "log_info": ("steps", "steps:last")}
    config = dqn.Config(asynchronous=asynchronous, **logged, **TWO, **sizes)
    pipeline, told, expected = builder("dqn")(config), [], []
    learn = pipeline.learn

    def watched(batch):
        done = batch["next", "done"].squeeze(-1)
        seen = batch["next", "observation"].squeeze(-1).int()
        found, ends = pipeline.collector.infos, seen[done].tolist()
        expected.append(sorted(float(length % 2 == 0) for length in ends))
        told.append(sorted(success for *_, success in found.successes))
        assert found.sums == {"info/steps": (seen.sum(), seen.numel()), "info/steps_last": (sum(ends), len(ends))}
        return learn(batch)

    pipeline.learn = watched
    try:
        train(pipeline)
    finally:
        pipeline.close()
    assert told == expected
    assert sum(map(len, told)) > 50


def test_an_environment_that_fails_in_a_collector_speaks_for_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = dqn.Config(env_id="fragile:tests/Broken-v0", total_frames=1000, num_envs=4, **TWO)
    pipeline = builder("dqn")(config)
    try:
        with pytest.raises(TrainingError, match=r"^collector \d of 2 failed: .*the pole broke"):
            train(pipeline)
    finally:
        pipeline.close()


@pytest.mark.parametrize("fate", ["dies", "sleeps"])
def test_a_collector_that_is_never_ready(fate, tmp_path):
    options = "--env-id fragile:tests/Stillborn-v0 --num-envs 2 --collector processes --num-collectors 2 --quiet"
    process = Python(
        *["-m", "rlpipe", "train", "ppo", *options.split(), "--run-dir", "run"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "helpers"), "STILLBORN": fate},
        stderr=subprocess.PIPE,
        session=True,
    )
    if fate == "sleeps":
        until = time.monotonic() + 300
        while not (tmp_path / "sleeping").exists():
            assert time.monotonic() < until
            time.sleep(0.05)
        # as a terminal does it: to all of them
        os.killpg(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=300)
    if fate == "sleeps":
        assert (process.returncode, told) == (130, "rlpipe: interrupted; nothing was written yet\n")
    else:
        assert process.returncode == 2
        assert re.match(r"rlpipe: error: a collector could not be started: collector 1 of 2 died .*memory", told)
    until = time.monotonic() + 60
    while _group_lives(process.pid):
        assert time.monotonic() < until
        time.sleep(0.1)


def _group_lives(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (ppo.Config, {"num_collectors": 2}, "with collector 'local'"),
        (dqn.Config, {"asynchronous": True}, "with collector 'local'"),
        (ppo.Config, {**TWO, "num_collectors": 17}, "each collector needs an environment: allowed is at most 16"),
        (ppo.Config, {**TWO, "num_collectors": 3}, "with num_envs 15 or 18 it can"),
        (ppo.Config, {**TWO, "asynchronous": True}, "on-policy"),
        (dqn.Config, {**TWO, "asynchronous": True, "replay": False}, "on-policy"),
        (ppo.Config, {"collector": "threads"}, "collector is 'threads'"),
    ],
)
def test_what_does_not_go_together_is_refused(config, options, message):
    with pytest.raises(ConfigError, match=message):
        config(**options)
