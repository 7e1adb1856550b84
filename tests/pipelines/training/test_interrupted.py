"""Runs that a signal stops between two checkpoints, and environments and collectors that make it harder."""

import json
import logging
import os
import signal
import threading

import gymnasium as gym
import numpy as np
import pytest
from comparing import fingerprint, same_weights
from conftest import Identity
from resuming import Whole, batches, go, interrupted, killed, make_config, text
from torchrl.collectors import Collector

from rlpipe.errors import InterruptedRunError
from rlpipe.pipelines.algorithms import a2c
from rlpipe.pipelines.checkpoints.names import checkpoints, newest_checkpoint
from rlpipe.pipelines.pipeline import Pipeline
from rlpipe.pipelines.runs.run import BuiltFrom, Run
from rlpipe.pipelines.training.loop import train
from rlpipe.pipelines.training.signals import Interruption


class Unseeded(Identity):
    """Draws from a generator of its own, in its steps (`early`: and in its resets)."""

    early = False

    def reset(self, **options):
        super().reset(**options)
        self._random = np.random.default_rng()
        return self._random.integers(3) if self.early else 0, {}

    def step(self, action):
        return int(self._random.integers(3)), 1.0, False, False, {}


class UnseededReset(Unseeded):
    early = True


gym.register("tests/Unseeded-v0", Unseeded, max_episode_steps=10)
gym.register("tests/UnseededReset-v0", UnseededReset, max_episode_steps=10)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return Whole(tmp_path_factory)


@pytest.mark.parametrize(
    ("algorithm", "kind"),
    [
        *[("a2c", "cartpole"), ("dqn", "frozen-lake"), ("reinforce", "acrobot"), ("ppo", "mujoco"), ("sarsa", "maze")],
        *[("ppo", "gru"), ("a2c", "lstm-acrobot")],
    ],
)
def test_interrupted_between_checkpoints(algorithm, kind, whole, tmp_path):
    config = make_config(algorithm, kind)
    run, batch = tmp_path / "run", int(0.45 * batches(config))
    interrupted(run, algorithm, config, batch)
    assert newest_checkpoint(run).name == f"frames-{batch * config.num_envs * config.rollout_steps:012d}"
    # once more before the next planned one, and then after it
    interrupted(run, algorithm, config, 2)
    killed(run, algorithm, config, "learn", int(0.4 * batches(config)))
    go(run, algorithm, config)
    size = config.num_envs * config.rollout_steps
    planned = -(-2 * config.checkpoint_every // size) * size
    # no checkpoint was passed over
    resumed = [json.loads(line)["frames"] for line in text(run, "resumes").splitlines()]
    assert resumed == [batch * size, (batch + 2) * size, planned]
    assert fingerprint(run) == fingerprint(whole(algorithm, config))


def test_a_planned_checkpoint_ends_episodes_that_are_not_captured(tmp_path):
    config, ends = make_config("a2c", "frozen-lake"), {}

    def during(pipeline):
        learn = pipeline.learn

        def learn_and_look(batch):
            after = batch.get("next")
            last = {key: after.get(key)[:, -1].squeeze(-1) for key in ("done", "terminated", "truncated")}
            assert (last["done"] == (last["terminated"] | last["truncated"])).all()
            ends[pipeline.collector.position[0]] = last["done"].all(), batch.get("step_count")[:, 0].eq(0).all()
            return learn(batch)

        pipeline.learn = learn_and_look

    go(tmp_path / "run", "a2c", config, during=during)
    assert [frames for frames, (ended, _) in ends.items() if ended] == [1024, 2048, 3072]
    assert [frames for frames, (_, began) in ends.items() if began] == [128, 1152, 2176]


def test_interrupted_in_its_last_batch(whole, tmp_path):
    config = make_config("a2c", "cartpole", total_episodes=80)
    reference = whole("a2c", config)
    ends = int(newest_checkpoint(reference).name.removeprefix("frames-")) // 128
    interrupted(tmp_path / "run", "a2c", config, ends)
    assert go(tmp_path / "run", "a2c", config).stopped_by == "80 episodes"
    assert text(tmp_path / "run", "evaluations").count("true") == 1


def test_an_environment_that_does_not_repeat_itself_goes_on_with_a_warning(tmp_path, caplog):
    config = make_config("a2c", "frozen-lake", env_id="tests/Unseeded-v0")
    run = tmp_path / "run"
    interrupted(run, "a2c", config, 12)
    with caplog.at_level(logging.WARNING, "rlpipe"):
        assert go(run, "a2c", config).frames == 3072
    assert "the same seeds and actions do not lead to the same observations: the run continues" in caplog.text
    assert json.loads(text(run, "resumes"))["frames"] == 1536


def test_an_environment_that_is_not_even_reset_by_its_seed_goes_on_with_a_warning(tmp_path, caplog):
    config = make_config("a2c", "frozen-lake", env_id="tests/UnseededReset-v0")
    run = tmp_path / "run"
    killed(run, "a2c", config, "learn", 12)
    with caplog.at_level(logging.WARNING, "rlpipe"):
        assert go(run, "a2c", config).frames == 3072
    assert "the same seeds and actions do not lead to the same observations" in caplog.text


def test_a_real_signal_is_held_back_and_the_handlers_are_put_back(whole, tmp_path):
    config, before = make_config("a2c", "frozen-lake"), signal.getsignal(signal.SIGTERM)
    with Interruption() as interruption:

        def during(pipeline):
            learn = pipeline.learn

            def learn_and_signal(batch):
                if interruption.signal is None and pipeline.collector.position[0] > 1500:
                    sender = threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGTERM))
                    sender.start()
                    sender.join()
                return learn(batch)

            pipeline.learn = learn_and_signal

        with pytest.raises(InterruptedRunError, match="^terminated at frame 1536$"):
            go(tmp_path / "run", "a2c", config, interruption=interruption, during=during)
        assert interruption.signal == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before
    go(tmp_path / "run", "a2c", config)
    assert fingerprint(tmp_path / "run") == fingerprint(whole("a2c", config))


def test_a_stock_collector_trains_and_writes_checkpoints(tmp_path):
    config = make_config("a2c", "cartpole", total_frames=1024)
    lean = a2c.build(config)
    state = {name: part for name, part in lean.state.items() if name != "environments"}
    collector = Collector(
        lean.collector.env,
        lean.policy,
        frames_per_batch=128,
        total_frames=1024,
        auto_register_policy_transforms=False,
        track_traj_ids=False,
    )
    pipeline = Pipeline(collector, lean.learn, lean.policy, state)
    assert pipeline.environments is None
    run = Run(tmp_path / "run", "small", built_from=BuiltFrom("a2c", config))
    train(pipeline, run, checkpoint_every=500)
    run.close()
    pipeline.close()
    assert [path.name for path in checkpoints(tmp_path / "run")] == ["frames-000000001024", "frames-000000000512"]
    assert not same_weights(lean.policy, a2c.build(config).policy)


def test_one_sigterm_that_comes_twice_is_one(monkeypatch):
    # as `timeout` sends it
    ended, told = [], []
    monkeypatch.setattr("rlpipe.pipelines.training.signals.os._exit", ended.append)
    now = [10.0]
    monkeypatch.setattr("rlpipe.pipelines.training.signals.time.monotonic", lambda: now[0])
    with Interruption() as interruption, interruption.held_back():
        interruption.announce = told.append
        for later in (0.0, 0.9):
            now[0] = 10.0 + later
            signal.raise_signal(signal.SIGTERM)
        assert (len(told), ended, interruption.exit_code) == (1, [], 143)
        now[0] = 11.5
        signal.raise_signal(signal.SIGTERM)
        assert ended == [143]
