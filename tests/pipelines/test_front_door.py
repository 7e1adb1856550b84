"""`rlpipe.train`: recipes and pipelines, threads, asyncio, listeners, schedules, and runs continued from Python."""

import asyncio
import json
import pickle
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import gymnasium as gym
import pytest
import torch
from comparing import fingerprint
from gymnasium.wrappers import ClipReward
from torchrl.envs.utils import ExplorationType, exploration_type, set_exploration_type

import rlpipe
import rlpipe.warn_once
from rlpipe import Evaluation, StopTraining, run_recipe
from rlpipe.errors import CheckpointError, ConfigError, InterruptedRunError
from rlpipe.pipelines.algorithms.recipes import find_recipe
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
        assert f"run {path} has listeners (Clock); continue it from Python: rlpipe.train(" in said
        assert f'"ppo", folder="{path}", resume=True, listeners=[...])' in said
    clock = Clock()
    summary = run_recipe("ppo", folder=folder, listeners=[clock], resume=True, progress=False)
    assert clock.count == 8
    assert summary["evaluation"] == whole["evaluation"]
    assert fingerprint(folder) == fingerprint(tmp_path / "whole")
    # of one that has ended, the summary is read
    before = (folder / "metrics.jsonl").read_bytes()
    ended = run_recipe("ppo", folder=folder, listeners=[Clock()], resume=True, progress=False)
    assert ended == {**summary, "waited": None}
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
        InterruptedRunError, match=r'continue with: rlpipe.train\("ppo", folder=".*run", resume=True, list'
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


def test_a_trained_run_knows_its_folder_its_result_and_its_agent(tmp_path):
    trained = rlpipe.train("ppo", folder=tmp_path / "run", seed=3, **SMALL)
    assert trained.folder == tmp_path / "run"
    assert trained.summary["evaluation"] == trained.evaluation.summary()
    assert trained.agent.evaluate(2) == trained.evaluation
    assert trained.agent is trained.agent
    assert len({trained.agent, rlpipe.load(trained)}) == 2
    sent = pickle.loads(pickle.dumps(trained))
    assert (sent, sent.agent.checkpoint) == (trained, trained.agent.checkpoint)
    text = f"return {trained.evaluation.mean:.1f} +- "
    assert repr(trained).startswith(f"<ppo on CartPole-v1, seed 3: evaluation {text}")
    assert repr(trained.evaluation).startswith(f"<Evaluation: {text}")
    assert trained._repr_png_() == (tmp_path / "run/curve.png").read_bytes()
    # a run that has ended is read
    again = rlpipe.train("ppo", folder=tmp_path / "run", resume=True, progress=False)
    assert (again.evaluation, again.summary) == (trained.evaluation, {**trained.summary, "waited": None})


@pytest.mark.parametrize(
    "given", [{"env": lambda: gym.make("CartPole-v1")}, {"wrappers": [lambda env: ClipReward(env, 0, 1)]}]
)
def test_a_trained_run_still_has_the_objects_of_its_environment(tmp_path, given):
    trained = rlpipe.train("ppo", folder=tmp_path / "run", **given, **SMALL)
    assert trained.agent.evaluate(2) == trained.evaluation


def test_a_pipeline_is_trained_by_the_loop(tmp_path):
    config = replace(find_recipe("ppo").config(), total_frames=256, num_envs=4, rollout_steps=32, minibatch_size=64)
    pipeline = find_recipe("ppo").build(config)
    result = rlpipe.train(pipeline, run=None, progress=False)
    assert (result.frames, result.updates) == (256, 2 * 2 * config.epochs)
    pipeline.close()


def test_the_first_argument_decides(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments, said in (
        ((3,), "train was given 3; expected the name of a recipe, a file, or a Pipeline"),
        (("ppo", "runs/mine"), r"train\('ppo', ...\) takes its options by name, got 'runs/mine'"),
        (("ppoo",), "no recipe is called 'ppoo'; did you mean ppo?"),
        (("none.json",), "config none.json cannot be read: No such file"),
    ):
        with pytest.raises(ConfigError, match=said) as caught:
            rlpipe.train(*arguments)
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_options_of_a_file_give_way_to_those_that_are_named(tmp_path):
    file = tmp_path / "options.yaml"
    file.write_text("recipe: ppo\nseed: 7\nlr: 1e-3\ntotal_frames: 50000\n")
    trained = rlpipe.train(file, folder=tmp_path / "run", **SMALL)
    config = json.loads((tmp_path / "run/config.json").read_text())["config"]
    assert (config["seed"], config["lr"], config["total_frames"]) == (7, 1e-3, 1024)
    # with the run's own file all options are there
    copy = rlpipe.train(tmp_path / "run/config.json", folder=tmp_path / "copy", progress=False)
    assert copy.evaluation == trained.evaluation
    with pytest.raises(ConfigError, match="ppo has no option 'lrr'; did you mean lr?"):
        rlpipe.train(file, lrr=3)


def test_threads_train_in_turn_and_as_alone(tmp_path):
    alone = [rlpipe.train("ppo", folder=tmp_path / f"alone-{seed}", seed=seed, **SMALL) for seed in (1, 2)]
    threads, drawn, once = torch.get_num_threads(), torch.get_rng_state(), []
    # each of them shows a warning once, the one that waited as well
    options = {**SMALL, "progress": lambda _: once.append(rlpipe.warn_once._seen is not None)}
    with ThreadPoolExecutor(2) as pool:
        given = [{**options, "folder": tmp_path / f"beside-{seed}", "seed": seed} for seed in (1, 2)]
        beside = list(pool.map(lambda options: rlpipe.train("ppo", **options), given))
    assert [each.evaluation for each in beside] == [each.evaluation for each in alone]
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(once)


def test_a_run_within_a_run_changes_neither(tmp_path):
    alone = rlpipe.train("ppo", folder=tmp_path / "alone", **SMALL)
    inner = []

    def another(progress):
        if progress.stage == "training" and not inner:
            inner.append(rlpipe.train("ppo", folder=tmp_path / "inner", **SMALL))

    outer = rlpipe.train("ppo", folder=tmp_path / "outer", **{**SMALL, "progress": another})
    assert outer.evaluation == inner[0].evaluation == alone.evaluation
    assert fingerprint(tmp_path / "outer") == fingerprint(tmp_path / "alone")


def test_an_agent_predicts_while_another_is_trained(tmp_path):
    alone = rlpipe.train("ppo", folder=tmp_path / "alone", **SMALL)
    agent, seen, asked, types = alone.agent, threading.Event(), [], []

    def wait(progress):
        if progress.stage == "training" and not asked:
            # in the middle of training, which holds the settings of the process
            seen.set()
            asked.append(threading.Event())
            asked[0].wait(20)

    with ThreadPoolExecutor(1) as pool:
        options = {**SMALL, "folder": tmp_path / "beside", "progress": wait}
        training = pool.submit(rlpipe.train, "ppo", **options)
        assert seen.wait(60)
        decide = agent._predictor._decide
        agent._predictor._decide = lambda *given: types.append(exploration_type()) or decide(*given)
        with set_exploration_type(ExplorationType.RANDOM):
            # as within a rollout, which must stay so
            actions = {int(agent.predict([0.0, 0.0, 0.05, 0.0])[0]) for _ in range(20)}
            agent.predict([0.0, 0.0, 0.05, 0.0], deterministic=False)
        asked[0].set()
        beside = training.result()
    assert len(actions) == 1
    assert set(types) == {ExplorationType.RANDOM}
    assert beside.evaluation == alone.evaluation


def test_a_coroutine_trains_and_leaves_its_signals_alone(tmp_path):
    async def both():
        loop, before = asyncio.get_running_loop(), signal.getsignal(signal.SIGINT)
        here = rlpipe.train("ppo", folder=tmp_path / "here", **SMALL)
        ticks = []
        handle = loop.call_later(0.01, ticks.append, 1)
        there = await asyncio.to_thread(rlpipe.train, "ppo", folder=tmp_path / "there", **SMALL)
        handle.cancel()
        return here, there, ticks, signal.getsignal(signal.SIGINT) is before

    here, there, ticks, same = asyncio.run(both())
    assert here.evaluation == there.evaluation
    assert isinstance(here.evaluation, Evaluation)
    # the loop went on meanwhile
    assert ticks == [1]
    assert same


def test_ctrl_c_in_a_coroutine_says_how_to_continue(tmp_path):
    def interrupt(progress):
        if progress.stage == "training":
            signal.raise_signal(signal.SIGINT)

    async def interrupted():
        rlpipe.train("ppo", folder=tmp_path / "run", **{**SMALL, "progress": interrupt})

    with pytest.raises(InterruptedRunError, match="interrupted at frame 128; what was written is in"):
        asyncio.run(interrupted())
    assert rlpipe.train("ppo", folder=tmp_path / "run", resume=True, progress=False).summary["frames"] == 1024
