"""Listeners that end a run, by choice or by failing."""

import json

import numpy as np
import pytest
from comparing import fingerprint

from rlpipe import StopTraining, run_recipe, train, trained
from rlpipe.pipelines.algorithms import ppo
from rlpipe.pipelines.checkpoints.names import newest_checkpoint
from rlpipe.pipelines.progress import Progress, Reporter
from rlpipe.scripts.main import run

SMALL = {
    "total_frames": 1024,
    "num_envs": 4,
    "rollout_steps": 32,
    "minibatch_size": 64,
    "hidden": (16,),
    "eval_every": 256,
    "eval_episodes": 2,
    "final_eval_episodes": 3,
    "loggers": None,
}
STAGES = ["starting", "training", "evaluating", "evaluated"]


class PrunedError(Exception):
    """As Optuna's."""


class StrangeExit(BaseException):
    """What no `except Exception` catches."""


def at(stage, frames, answer):
    """A listener that gives an answer, or raises it, the first time that a stage is told at a frame or later."""
    done = []

    def tell(now):
        if done or now.stage != stage or now.frames < frames or now.final:
            return None
        done.append(now)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    return tell


@pytest.mark.parametrize("answer", [False, StopTraining("no better for long")], ids=repr)
@pytest.mark.parametrize("stage", STAGES)
def test_a_run_ends_by_choice(tmp_path, stage, answer, capsys):
    folder = tmp_path / "run"
    summary = run_recipe("ppo", folder=folder, progress=at(stage, 300 if stage != "starting" else 0, answer), **SMALL)
    frames = {"starting": 0, "training": 384}.get(stage, 512)
    reason = "no better for long" if "no better" in str(answer) else "the progress listener"
    assert (summary["frames"], summary["stopped_early"], summary["stopped_by"]) == (frames, True, reason)
    assert newest_checkpoint(folder).name == f"frames-{frames:012d}"
    rows = [json.loads(line) for line in (folder / "evaluations.jsonl").read_text().splitlines()]
    assert [row["frames"] for row in rows if row["final"]] == [frames]
    assert (folder / "curve.png").is_file()
    with trained(folder) as agent:
        assert agent.checkpoint.name == f"frames-{frames:012d}"
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert run(["resume", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {**summary, "waited": None}
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    assert run(["table", str(folder)]) == 0


def test_what_is_false_in_numpy_ends_it_too():
    now = Progress("training", 5)
    assert Reporter(lambda _: np.mean([1.0]) > 3).report(now) == "the progress listener"
    assert Reporter(at("training", 0, StopTraining())).report(now) == "the progress listener"


@pytest.mark.parametrize("answer", [None, 0, "", [], 0.0, np.zeros(1), True])
def test_nothing_else_ends_it(answer):
    pipeline = ppo.build(ppo.Config(**{key: SMALL[key] for key in ("num_envs", "rollout_steps", "minibatch_size")}))
    pipeline.collector.total_frames = 256
    told = []
    train(pipeline, progress=lambda now: (told.append(now.frames), answer)[1])
    pipeline.close()
    assert told[-1] == 256


def test_a_loop_of_ones_own_ends(tmp_path):
    pipeline = ppo.build(ppo.Config(total_frames=1024, num_envs=4, rollout_steps=32))
    result = train(pipeline, progress=at("training", 256, False))
    assert (result.frames, result.stopped_by) == (256, "the progress listener")
    with pytest.raises(PrunedError):
        train(pipeline, progress=at("training", 256, PrunedError()))
    pipeline.close()


def test_a_run_that_was_ended_goes_on_with_more_frames(tmp_path, capsys):
    folder = tmp_path / "run"
    run_recipe("ppo", folder=folder, progress=at("training", 300, False), **SMALL)
    assert run(["resume", str(folder), "--total-frames", "2048", "--json", "--quiet"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["frames"], summary["stopped_by"]) == (2048, "")
    rows = [json.loads(line)["frames"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert rows == list(range(128, 2049, 128))


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Acrobot-v1"])
def test_what_a_listener_raises_leaves_a_run_to_resume_to_the_bit(tmp_path, env_id):
    options = {**SMALL, "env_id": env_id, "max_episode_steps": 60, "log_every": 192}
    run_recipe("ppo", folder=tmp_path / "whole", **options)
    for stage, error in zip(STAGES, [PrunedError("here"), StrangeExit(), SystemExit(3), KeyError("k")], strict=True):
        folder = tmp_path / stage
        with pytest.raises(type(error)) as raised:
            run_recipe("ppo", folder=folder, progress=at(stage, 300 if stage != "starting" else 0, error), **options)
        assert raised.value is error
        frames = {"starting": 0, "training": 384}.get(stage, 512)
        with trained(folder) as agent:
            assert agent.checkpoint.name == f"frames-{frames:012d}"
        assert run(["resume", str(folder), "--quiet"]) == 0
        assert fingerprint(folder) == fingerprint(tmp_path / "whole")


@pytest.mark.parametrize("answer", [False, StopTraining("too late"), PrunedError()], ids=repr)
def test_after_training_there_is_nothing_to_end(tmp_path, answer):
    def tell(now):
        if now.final and now.stage == "evaluated":
            if isinstance(answer, Exception):
                raise answer
            return answer
        return None

    if isinstance(answer, PrunedError):
        with pytest.raises(PrunedError):
            run_recipe("ppo", folder=tmp_path / "run", progress=tell, **SMALL)
    else:
        assert run_recipe("ppo", folder=tmp_path / "run", progress=tell, **SMALL)["stopped_by"] == ""
    assert json.loads((tmp_path / "run/evaluations.jsonl").read_text().splitlines()[-1])["final"]
