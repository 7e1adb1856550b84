"""What a resumed run must not lose at its edges: its end, its start, its pictures, and parts of one's own."""

import json
import os
import shutil
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from resuming import go, interrupted, killed, make_config, text

from rlpipe.errors import CheckpointError, InterruptedRunError
from rlpipe.pipelines.algorithms import a2c
from rlpipe.pipelines.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from rlpipe.pipelines.checkpoints.names import checkpoints, frames_of, newest_checkpoint
from rlpipe.pipelines.envs import EnvConfig, make_env
from rlpipe.pipelines.pipeline import Pipeline
from rlpipe.pipelines.runs.read import read_description
from rlpipe.pipelines.runs.run import BuiltFrom, Run
from rlpipe.pipelines.seeding import Seeds
from rlpipe.pipelines.training.loop import train
from rlpipe.pipelines.training.signals import Interruption
from rlpipe.scripts.main import run

BINS = ["train", "q-learning/cartpole-bins", "--total-frames", "400", "--eval-every", "100000", "--quiet"]
BINS += ["--final-eval-episodes", "2", "--run-dir", "here"]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


class Doubles(gym.Env):
    """Actions are float64."""

    observation_space = Box(-1, 1, (2,), np.float32)
    action_space = Box(-1, 1, (1,), np.float64)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.random(2, np.float32), {}

    def step(self, action):
        return self.np_random.random(2, np.float32), float(action[0]), False, False, {}


class Other(Doubles):
    """`get_state` and `set_state` mean something else."""

    def get_state(self):
        return np.zeros(2)

    def set_state(self, qpos, qvel):
        raise AssertionError


class Forgetful(Doubles):
    """What is put back is not what comes out again."""

    def get_state(self):
        self.asked = getattr(self, "asked", 0) + 1
        return {"asked": self.asked}

    def set_state(self, state):
        pass


class Closing(Doubles):
    """Has no state once it is closed."""

    def get_state(self):
        return dict(self.held)

    def set_state(self, state):
        self.held = dict(state)

    def reset(self, **options):
        self.held = {"at": 0}
        return super().reset(**options)

    def close(self):
        del self.held


for kind in (Doubles, Other, Forgetful, Closing):
    gym.register(f"tests/{kind.__name__}-v0", kind, max_episode_steps=50)


def test_a_run_with_a_gif_can_be_resumed_at_its_end_and_beyond(capsys):
    assert run(BINS) == 0
    gif = Path("here/agent.gif").read_bytes()
    Path("here/curve.png").unlink()
    assert run(["resume", "here", "--quiet"]) == 0
    assert Path("here/agent.gif").read_bytes() == gif
    assert run(["resume", "here", "--quiet", "--total-frames", "800", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["frames"] == 800


def test_a_finished_run_only_says_again_how_it_ended(capsys, monkeypatch):
    assert run([*BINS, "--json"]) == 0
    said = capsys.readouterr().out
    before = {path: path.read_bytes() for path in Path("here").rglob("*") if path.is_file()}
    monkeypatch.setattr("rlpipe.pipelines.session.Session.run", None)
    assert run(["resume", "here", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {**json.loads(said), "waited": None}
    assert {path: path.read_bytes() for path in Path("here").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("returns", ["x", [], "", ["a", 1.0], [1.0, {}], [[1.0], 2.0], None, [10**400]])
def test_a_final_evaluation_that_is_damaged_is_made_again(returns):
    assert run(BINS) == 0
    file = Path("here/evaluations.jsonl")
    good = file.read_text()
    *lines, last = good.splitlines()
    file.write_text("\n".join([*lines, json.dumps({**json.loads(last), "returns": returns})]) + "\n")
    assert run(["resume", "here", "--quiet"]) == 0
    assert json.loads(file.read_text().splitlines()[-1])["returns"] == json.loads(last)["returns"]


def test_a_run_that_a_stopping_rule_ended_is_not_prolonged(capsys):
    assert run([*BINS, "--total-episodes", "3"]) == 0
    before = Path("here/config.json").read_text()
    assert run(["resume", "here", "--total-frames", "9000"]) == 2
    assert "here was stopped by 3 episodes; more frames do not change that" in capsys.readouterr().err
    assert Path("here/config.json").read_text() == before


def test_a_run_that_lost_what_it_began_with_does_not_begin_from_nothing(capsys):
    assert run(BINS) == 0
    assert run([*BINS[:-1], "second", "--start-from", "here"]) == 0
    for checkpoint in checkpoints(Path("second")):
        shutil.rmtree(checkpoint)
    Path("second/curve.png").unlink()
    capsys.readouterr()
    assert run(["resume", "second", "--quiet"]) == 2
    assert "began with the weights of here, which were not saved yet" in capsys.readouterr().err


def test_a_checkpoint_is_no_run(capsys):
    assert run(BINS) == 0
    assert run(["resume", str(newest_checkpoint(Path("here")))]) == 2
    assert "is a checkpoint; name the run folder that it is in" in capsys.readouterr().err


@pytest.mark.parametrize("env_id", ["evil:Env-v0", "sys:evil:Env-v0", "sys:evil:os:Env-v0", ":evil:Env-v0"])
def test_a_module_behind_a_module_is_not_trusted_for_it(tmp_path, env_id):
    described = {"recipe": "ppo", "algorithm": "ppo", "config": {"env_id": env_id}}
    (tmp_path / "config.json").write_text(json.dumps(described))
    with pytest.raises(CheckpointError, match="add --trust-module"):
        read_description(tmp_path, ["sys", "os"])


def test_a_file_without_end_is_not_read(tmp_path):
    network = torch.nn.Linear(2, 3)
    save_checkpoint(tmp_path / "saved", {"policy": network}, {})
    for name, words in (("policy", "component 'policy' is damaged"), ("extra", "component 'extra' is damaged")):
        with (tmp_path / "saved" / f"{name}.safetensors").open("ab") as file:
            os.truncate(file.fileno(), 2**43)
        with pytest.raises(CheckpointError, match=words):
            load_checkpoint(tmp_path / "saved", {"policy": network})
        (tmp_path / "saved" / f"{name}.safetensors").unlink()
        save_checkpoint(tmp_path / "again", {"policy": network}, {})
        shutil.move(tmp_path / "again" / "policy.safetensors", tmp_path / "saved" / "policy.safetensors")
        shutil.rmtree(tmp_path / "again")


def test_actions_may_be_of_another_precision_than_the_environments(tmp_path):
    config = make_config("reinforce", "acrobot", env_id="tests/Doubles-v0")
    interrupted(tmp_path / "run", "reinforce", config, 2)
    assert go(tmp_path / "run", "reinforce", config).frames == 3072


@pytest.mark.parametrize(("name", "captured"), [("Other", False), ("Forgetful", False), ("Closing", True)])
def test_only_a_state_that_can_be_put_back_is_captured(tmp_path, name, captured):
    # the last checkpoint is not a planned one
    config = make_config("a2c", "acrobot", env_id=f"tests/{name}-v0", checkpoint_every=1300)
    killed(tmp_path / "run", "a2c", config, "learn", 15)
    assert go(tmp_path / "run", "a2c", config).frames == 3072
    described = json.loads((tmp_path / "run" / "config.json").read_text())
    assert described["environments"] == ("captured" if captured else "synchronised")


class Part:
    """A component whose state is whatever it is told."""

    def __init__(self, state):
        self.state = state

    def state_dict(self):
        return self.state


@pytest.mark.parametrize(
    ("name", "state", "error", "words"),
    [
        ("mine", {"a": {1, 2}}, CheckpointError, "component 'mine' cannot be saved: a is a set"),
        ("mine", {"a": torch.zeros(2, dtype=torch.complex64)}, CheckpointError, "a is a tensor of torch.complex64"),
        ("mine", {"a": torch.zeros(2, 2).to_sparse()}, CheckpointError, "a is a tensor of torch.float32"),
        ("myCounter", {}, CheckpointError, "expected small letters, digits and underscores"),
        ("progress", {}, ValueError, "a name that train uses itself"),
        ("global_random", {}, ValueError, "a name that train uses itself"),
    ],
)
def test_what_cannot_be_saved_is_refused_before_training(tmp_path, name, state, error, words):
    config = make_config("a2c", "cartpole")
    built = a2c.build(config)
    pipeline = Pipeline(built.collector, built.learn, built.policy, {"policy": built.policy, name: Part(state)})
    made = Run(tmp_path / "run", "small", built_from=BuiltFrom("a2c", config))
    with pytest.raises(error, match=words):
        train(pipeline, made)
    made.close()
    built.close()


@pytest.mark.parametrize("kind", ["SGD", "RMSprop", "Adagrad", "NAdam", "Adam", "AdamW"])
def test_any_optimiser_comes_back(tmp_path, kind):
    networks = [torch.nn.Linear(3, 2) for _ in range(2)]
    options = {"momentum": 0.9} if kind == "SGD" else {}
    first, second = (getattr(torch.optim, kind)(each.parameters(), lr=0.1, **options) for each in networks)
    for _ in range(2):
        first.zero_grad()
        networks[0](torch.ones(3)).sum().backward()
        first.step()
    save_checkpoint(tmp_path / "saved", {"optimizer": first}, {})
    load_checkpoint(tmp_path / "saved", {"optimizer": second})
    again = second.state_dict()["state"]
    for index, entries in first.state_dict()["state"].items():
        for name, value in entries.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(again[index][name])), name


def test_an_older_checkpoint_is_taken_where_the_newest_knows_lines_that_are_gone(tmp_path, caplog):
    config = make_config("a2c", "cartpole")
    folder = tmp_path / "run"
    killed(folder, "a2c", config, "learn", 20)
    older = checkpoints(folder)[-1]
    known = json.loads((older / "checkpoint.json").read_text())["content"]["metadata"]["lengths"]["metrics"]
    os.truncate(folder / "metrics.jsonl", known + 5)
    assert go(folder, "a2c", config).frames == 3072
    assert "lines are missing; resuming from an older one" in caplog.text
    assert json.loads(text(folder, "resumes"))["frames"] == frames_of(older)


def test_actions_are_noted_however_the_hook_is_used(tmp_path):
    config = make_config("a2c", "frozen-lake")
    interruption = Interruption()

    def during(pipeline):
        pipeline.collector.post_collect_hook = lambda batch: None
        learn = pipeline.learn

        def learn_and_signal(batch):
            if pipeline.collector.position[0] > 1500:
                interruption.signal = 2
            return learn(batch)

        pipeline.learn = learn_and_signal

    with pytest.raises(InterruptedRunError, match="interrupted at frame"):
        go(tmp_path / "run", "a2c", config, interruption=interruption, during=during)
    saved = json.loads((newest_checkpoint(tmp_path / "run") / "checkpoint.json").read_text())["content"]
    assert ["actions", {"dict": [["action", {"tensor": "actions/action"}]]}] in saved["components"]["environments"][
        "dict"
    ]


def test_no_two_of_many_environments_share_their_stream():
    env = make_env(EnvConfig("Acrobot-v1", 256), seed=Seeds(867).integer("environments"))
    assert len(env.reset()["observation"].unique(dim=0)) == 256
    env.close()
