"""`run_recipe`: listeners, schedules, and runs continued from Python."""

import json

import pytest
from comparing import fingerprint

from rlpipe import StopTraining, run_recipe
from rlpipe.errors import CheckpointError, ConfigError, InterruptedRunError
from rlpipe.scripts.main import run

SMALL = {
    "total_frames": 1024,
    "num_envs": 4,
    "rollout_steps": 32,
    "minibatch_size": 64,
    "hidden": (16,),
    "eval_every": 256,
    "eval_episodes": 2,
    "final_eval_episodes": 2,
    "checkpoint_every": 256,
    "loggers": None,
    "progress": False,
}


class Clock:
    """Counts batches, and fails or stops at one of them."""

    def __init__(self, at=None, error=None):
        self.count, self.at, self.error = 0, at, error

    def __call__(self, moment):
        if moment.stage == "learned":
            self.count += 1
            moment.scalars["count"] = self.count
            if self.count == self.at:
                raise self.error

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


def small(folder, clock, **options):
    return run_recipe("ppo", folder=folder, listeners=[clock], **{**SMALL, **options})


def test_a_run_with_listeners_continues_to_the_bit(tmp_path, capsys):
    whole = small(tmp_path / "whole", Clock())
    folder = tmp_path / "run"
    with pytest.raises(KeyError):
        small(folder, Clock(5, KeyError("here")))
    assert json.loads((folder / "config.json").read_text())["listeners"] == ["Clock"]
    for path in (folder, tmp_path / "whole"):
        assert run(["resume", str(path), "--json"]) == 2
        said = capsys.readouterr().err
        assert f"run {path} has listeners (Clock); continue it from Python: run_recipe(" in said
        assert f'"ppo", folder="{path}", resume=True, listeners=[...])' in said
    clock = Clock()
    summary = run_recipe("ppo", folder=folder, listeners=[clock], resume=True, progress=False)
    assert clock.count == 8
    assert summary["evaluation"] == whole["evaluation"]
    assert fingerprint(folder) == fingerprint(tmp_path / "whole")
    # of one that has ended, the summary is read
    before = (folder / "metrics.jsonl").read_bytes()
    assert run_recipe("ppo", folder=folder, listeners=[Clock()], resume=True, progress=False) == summary
    assert (folder / "metrics.jsonl").read_bytes() == before
    longer = run_recipe("ppo", folder=folder, listeners=[clock], resume=True, total_frames=1536, progress=False)
    assert (longer["frames"], clock.count) == (1536, 12)


def test_what_does_not_fit_the_run_is_refused(tmp_path):
    folder = tmp_path / "run"
    small(folder, Clock(2, StopTraining("enough")))
    for options, message in (
        ({"listeners": []}, "the run had the listeners Clock, and now there are none; give the same"),
        ({"listeners": [print]}, "the run had the listeners Clock, and now there are print"),
        ({"lr": 1e-5}, "lr is 1e-05, and the run was started with 0.003; leave it out"),
        ({"total_frames": 256}, "total_frames is 256, and the run was started with 1024; it can only be raised"),
        ({"folder": None}, "resume is True, and no folder is given"),
        ({"clip": "linear:0.3:0"}, "clip is 'linear:0.3:0', and the run was started with 0.3; leave it out"),
        ({"start_from": folder}, "resume is True, and start_from is given"),
    ):
        with pytest.raises(ConfigError, match=message):
            run_recipe("ppo", **{"folder": folder, "listeners": [Clock()], "resume": True, **options})
    with pytest.raises(ConfigError, match="is one of ppo, and dqn was asked for"):
        run_recipe("dqn", folder=folder, resume=True)
    with pytest.raises(CheckpointError, match="is no run"):
        run_recipe("ppo", folder=tmp_path / "other", resume=True)
    with pytest.raises(ConfigError, match="a listener is 3; expected a function"):
        run_recipe("ppo", folder=tmp_path / "none", listeners=[3])
    assert not (tmp_path / "none").exists()


def test_schedules_of_a_resumed_run_are_those_of_the_run(tmp_path):
    folder = tmp_path / "run"
    schedules = {"clip": "linear:0.2:0", "gamma": "linear:0.9:0.99"}
    small(folder, Clock(2, StopTraining("enough")), **schedules)
    again = {"folder": folder, "listeners": [Clock()], "resume": True}
    with pytest.raises(ConfigError, match="clip is 0.2, and the run was started with 'linear:0.2:0'"):
        run_recipe("ppo", clip=0.2, **again)
    with pytest.raises(ConfigError, match="gamma is 'linear:0.9:1', and the run was started with 'linear:0.9:0.99'"):
        run_recipe("ppo", gamma="linear:0.9:1", **again)
    # one of them may be left out, and be written in another way
    assert run_recipe("ppo", clip="linear:0.20:0.0", progress=False, **again)["frames"] < 1024


def test_an_interrupted_run_says_how_it_continues(tmp_path):
    with pytest.raises(
        InterruptedRunError, match=r'continue with: run_recipe\("ppo", folder=".*run", resume=True, list'
    ):
        small(tmp_path / "run", Clock(2, KeyboardInterrupt()))


def test_a_schedule_is_an_option(tmp_path):
    summary = run_recipe("ppo", folder=tmp_path / "run", clip="linear:0.2:0", epochs=2, **SMALL)
    assert summary["frames"] == 1024
    config = json.loads((tmp_path / "run/config.json").read_text())["config"]
    assert (config["clip"], config["schedule"], config["epochs"]) == (0.2, ["clip=linear:0.2:0"], 2)
    rows = [json.loads(line)["clip"] for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert rows == pytest.approx([0.2 * (1 - batch / 8) for batch in range(8)])
    assert run(["resume", str(tmp_path / "run"), "--total-frames", "2048", "--quiet", "--json"]) == 0
    rows = [json.loads(line)["clip"] for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    # the rest has the values of the longer run
    assert rows[8:] == pytest.approx([0.2 * (1 - batch / 16) for batch in range(8, 16)])
