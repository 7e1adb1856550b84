"""Numbers of a Config that change during training."""

import contextlib
import dataclasses
import json
import math
import re

import pytest
from comparing import fingerprint
from resuming import batches, go, killed, make_config

from rlpipe.errors import ConfigError
from rlpipe.pipelines.algorithms import a2c, dqn, ppo, q_learning, qr_dqn, reinforce
from rlpipe.pipelines.build.schedules import Curve
from rlpipe.pipelines.checkpoints.checkpoint import identity
from rlpipe.pipelines.config.json_form import config_from_json
from rlpipe.pipelines.config.schedules import with_schedules
from rlpipe.pipelines.training.loop import train

SMALL = {"total_frames": 512, "num_envs": 4, "rollout_steps": 32, "hidden": (16,), "eval_every": None}
OF = {
    ppo: {"minibatch_size": 64},
    a2c: {},
    reinforce: {"total_frames": 1024, "rollout_steps": 128, "max_episode_steps": 100},
    dqn: {"warmup_frames": 128, "minibatch_size": 32, "updates": 4},
    qr_dqn: {"warmup_frames": 128, "minibatch_size": 32, "updates": 4},
}
OPTIMIZER = ("adam_eps=exponential:1e-4:1e-8", "max_grad_norm=linear:2:0.5")
Q_NETWORK = (
    *OPTIMIZER,
    "gamma=cosine:0.9:0.99",
    "tau=linear:0.1:0",
    "target_every=linear:1:3",
    "max_grad_value=linear:1:0.1",
    "updates=linear:4:1",
)
ACTOR = (*OPTIMIZER, "gamma=cosine:0.9:0.99", "value_coefficient=linear:1:0.1", "entropy_coefficient=linear:0.1:0")
FIELDS = {
    ppo: (*ACTOR, "lmbda=linear:1:0.9", "clip=linear:0.3:0", "value_clip=linear:1:0.1", "epochs=linear:3:1"),
    a2c: (*ACTOR, "lmbda=linear:1:0.9"),
    reinforce: ACTOR,
    dqn: Q_NETWORK,
    qr_dqn: (*Q_NETWORK, "kappa=linear:1:0.5"),
}


@pytest.mark.parametrize("algorithm", FIELDS, ids=lambda each: each.__name__.rpartition(".")[2])
def test_every_number_of_an_algorithm_changes(algorithm):
    entries = ("lr=linear:1e-2:0", *FIELDS[algorithm])
    config = algorithm.Config(**{**SMALL, **OF[algorithm], "lr_schedule": "constant", "schedule": entries})
    seen = []
    with contextlib.closing(algorithm.build(config)) as pipeline:
        pipeline.listeners = (*pipeline.listeners, lambda now: seen.append(now) if now.stage == "learned" else None)
        train(pipeline, progress=False)
        optimizer = pipeline.state["optimizer"]
        if algorithm is ppo:
            assert pipeline.state["loss"].clip.item() == 0.0
            assert [each.scalars["updates"] for each in seen] == [6, 4, 4, 4]
        if algorithm in (dqn, qr_dqn):
            assert [each.scalars["updates"] for each in seen] == [4, 3, 2, 2]
            assert pipeline.state["target"].tau == 0.0
        if algorithm is qr_dqn:
            assert pipeline.state["loss"].kappa.item() == 0.5
    falling = [1e-2 * (1 - batch / len(seen)) for batch in range(len(seen))]
    assert [each.scalars["lr"] for each in seen] == pytest.approx(falling)
    assert optimizer.param_groups[0]["lr"] == 0.0
    assert optimizer.param_groups[0]["eps"] == pytest.approx(1e-8)
    for entry in entries:
        field = entry.partition("=")[0]
        assert seen[0].scalars[field] == getattr(config, field) == float(entry.split(":")[1])
        assert len({each.scalars[field] for each in seen}) > 1


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("linear", [4.0, 3.25, 2.5, 1.75, 1.0, 1.0]),
        ("exponential", [4.0, math.sqrt(8), 2.0, math.sqrt(2), 1.0, 1.0]),
        ("cosine", [4.0, 2.5 + 1.5 / math.sqrt(2), 2.5, 2.5 - 1.5 / math.sqrt(2), 1.0, 1.0]),
    ],
)
def test_curves(kind, values):
    assert [Curve(kind, 4.0, 1.0, 100)(frames, 0) for frames in (0, 25, 50, 75, 100, 500)] == pytest.approx(values)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            "clip",
            "clip is ''; a schedule is KIND:START:END, with :FRAMES or not, such as linear:0.2:0; kinds",
        ),
        ("clip=linear:0.2", "clip is 'linear:0.2'; a schedule is KIND:START:END"),
        ("clip=steep:0.2:0", "clip is 'steep:0.2:0'; a schedule is KIND:START:END"),
        ("clip=linear:nan:0", "clip is 'linear:nan:0'; a schedule is"),
        ("clip=linear:0.2:0:0", "the frames of a schedule are 1 or more"),
        ("clip=exponential:0.2:0", "both ends of an exponential schedule are above 0"),
        ("clip=linear:0:0.2", "clip is 0.0; allowed is more than 0"),
        ("gamma=linear:0.9:1.1", "gamma is 1.1; allowed is 0 or more and at most 1"),
        ("epochs=linear:4:1.5", "epochs is linear:4:1.5; both ends are expected to be whole numbers"),
        ("clipp=linear:0.2:0", "schedule has 'clipp', which is no number; did you mean clip?"),
        ("hidden=linear:8:4", "schedule has 'hidden', which is no number"),
        ("a b=linear:8:4", "schedule is 'a b=linear:8:4'; expected FIELD=KIND:START:END"),
        (
            "lr=linear:1e-3:0",
            "lr is linear:0.001:0, and lr_schedule is 'linear', which changes it too; set",
        ),
        ("lr=linear:0:1e-3", "lr is 0"),
        (f"clip=linear:1:0:{10**30}", "the frames of a schedule are"),
    ],
)
def test_what_is_no_schedule_is_refused(entry, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        ppo.Config(schedule=(entry,))


def test_schedules_are_a_tuple_of_one_for_each_field():
    with pytest.raises(ConfigError, match="schedule is 'clip=linear:0.2:0'; expected a tuple"):
        ppo.Config(schedule="clip=linear:0.2:0")
    with pytest.raises(ConfigError, match="clip has two schedules, linear:0.2:0 and cosine:0.2:0"):
        ppo.Config(schedule=("clip=linear:0.2:0", "clip=cosine:0.2:0"))


def test_what_cannot_change_is_refused_with_what_can():
    can = "adam_eps, clip, entropy_coefficient, epochs, gamma, lmbda, lr, max_grad_norm, value_clip, value_coefficient"
    with pytest.raises(ConfigError, match=f"num_envs is linear:8:4, and it cannot change during training; {can} can"):
        ppo.build(ppo.Config(schedule=("num_envs=linear:8:4",)))
    with pytest.raises(ConfigError, match="it cannot change during training; this algorithm has none that can"):
        q_learning.build(q_learning.Config(env_id="rlpipe/Maze-v0", schedule=("gamma=linear:0.9:0.99",)))
    with pytest.raises(ConfigError, match="updates is linear:4:1, and this config does not use it"):
        dqn.build(dqn.Config(replay=False, schedule=("updates=linear:4:1",)))


def test_a_config_comes_back_and_one_without_the_field_too():
    config = ppo.Config(schedule=("value_clip=linear:1:0.5",))
    written = json.loads(json.dumps(dataclasses.asdict(config)))
    assert (written["schedule"], written["value_clip"]) == (["value_clip=linear:1:0.5"], 1.0)
    assert config_from_json(ppo.Config, written) == config
    old = {name: value for name, value in dataclasses.asdict(ppo.Config()).items() if name != "schedule"}
    assert config_from_json(ppo.Config, json.loads(json.dumps(old))) == ppo.Config()
    assert identity("ppo", old) == identity("ppo", dataclasses.asdict(ppo.Config()))
    assert config.to_act().schedule == ()


def test_options_that_are_schedules():
    given = {"clip": "linear:0.2:0", "lr": 1e-3, "activation": "tanh"}
    left = {"lr": 1e-3, "activation": "tanh"}
    assert with_schedules(given, ppo.Config) == {**left, "schedule": ("clip=linear:0.2:0",)}
    present = ("clip=cosine:1:0.5", "lr=linear:1:0.5", "gamma=linear:0:1")
    expected = {**left, "schedule": ("gamma=linear:0:1", "clip=linear:0.2:0")}
    assert with_schedules(given, ppo.Config, present) == expected
    assert with_schedules({"seed": 3}, ppo.Config, present) == {"seed": 3}
    for wrong in (3, "clip=linear:1:0", [3]):
        with pytest.raises(ConfigError, match="expected a tuple"):
            ppo.Config(**with_schedules({"schedule": wrong}, ppo.Config))

    @dataclasses.dataclass(frozen=True)
    class Plain:
        lr: float = 1e-3

    with pytest.raises(
        ConfigError, match="lr is 'linear:1:0', and Config has no field 'schedule'; let it inherit rlpipe.Run"
    ):
        with_schedules({"lr": "linear:1:0"}, Plain)


@pytest.mark.parametrize("algorithm", ["ppo", "dqn"])
def test_a_run_resumes_to_the_bit(algorithm, tmp_path):
    entries = {"ppo": ("clip=linear:0.3:0", "epochs=linear:2:1"), "dqn": ("tau=linear:0.1:0.01", "updates=linear:2:1")}
    config = make_config(algorithm, "cartpole", schedule=entries[algorithm])
    go(tmp_path / "whole", algorithm, config)
    killed(tmp_path / "killed", algorithm, config, "learn", int(0.7 * batches(config)))
    go(tmp_path / "killed", algorithm, config)
    assert fingerprint(tmp_path / "killed") == fingerprint(tmp_path / "whole")
