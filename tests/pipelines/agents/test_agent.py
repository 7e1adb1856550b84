"""`rlpipe.load`, and the methods of an agent: each does what its command does."""

import json
from pathlib import Path

import gymnasium as gym
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import rlpipe
from rlpipe import EnvConfig
from rlpipe.errors import CheckpointError, ConfigError
from rlpipe.scripts.main import run

SMALL = {
    "total_frames": 256,
    "num_envs": 2,
    "rollout_steps": 32,
    "minibatch_size": 32,
    "hidden": (8,),
    "eval_every": 128,
    "eval_episodes": 2,
    "final_eval_episodes": 3,
    "checkpoint_every": 128,
    "max_episode_steps": 20,
    "loggers": None,
    "progress": False,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("agents") / "run"
    return rlpipe.train("ppo", folder=folder, normalize_observation=True, seed=5, **SMALL)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def printed(capsys, *arguments):
    capsys.readouterr()
    assert run([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_every_name_of_a_checkpoint_is_loaded(trained):
    newest = trained.folder / "checkpoints" / "frames-000000000256"
    best = Path(trained.summary["best"]["checkpoint"])
    for given, expected in (
        ((trained.folder,), newest),
        ((str(trained.folder), "last"), newest),
        ((trained,), newest),
        ((trained, "best"), best),
        ((f"{trained.folder}@best",), best),
        ((trained.folder, 128), newest.with_name("frames-000000000128")),
        ((best,), best),
    ):
        agent = rlpipe.load(*given)
        assert agent.checkpoint == expected.resolve()
        assert agent.predict([0.0, 0.0, 0.05, 0.0])[1] is None
    assert repr(agent) == f"<Agent of ppo on CartPole-v1, from {best.resolve()}>"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((3,), "path is 3; expected a run folder, RUN@best, or a checkpoint"),
        (("nothing",), "nothing is no run"),
        (("RUN", 7), "has no checkpoint '7'; after @ goes best, last, or one of the frames"),
        (("RUN", 2.5), "checkpoint is 2.5; expected 'best', 'last', or a number of frames"),
        (("RUN", True), "checkpoint is True; expected 'best', 'last', or a number of frames"),
        (("RUN@best", "last"), "which names a checkpoint, and so does 'last'; give one of them"),
    ],
)
def test_what_is_no_agent_is_refused_in_one_line(trained, given, said):
    path = given[0].replace("RUN", str(trained.folder)) if isinstance(given[0], str) else given[0]
    with pytest.raises(ConfigError, match=said) as caught:
        rlpipe.load(path, *given[1:])
    assert "\n" not in str(caught.value)


def test_an_evaluation_is_that_of_the_command(trained, capsys):
    agent = rlpipe.load(trained)
    assert agent.evaluate(3) == trained.evaluation
    for options, given in (
        (["--episodes", "4", "--seed", "9"], {"episodes": 4, "seed": 9}),
        (
            ["--episodes", "3", "--stochastic", "--eval-envs", "2"],
            {"episodes": 3, "deterministic": False, "eval_envs": 2},
        ),
    ):
        assert printed(capsys, "evaluate", trained.folder, *options)["evaluation"] == agent.evaluate(**given).summary()


def test_another_environment_has_the_same_spaces(trained):
    agent = rlpipe.load(trained)
    there = agent.evaluate(2, env="CartPole-v0", seed=1)
    assert there == agent.evaluate(2, env=EnvConfig("CartPole-v0", max_episode_steps=20), seed=1)
    assert agent.evaluate(2, env=lambda: gym.make("CartPole-v1"), seed=1) == agent.evaluate(2, seed=1)
    # the run's own limit holds there too
    assert max(there.lengths) == 20
    for env, said in (
        (
            "Acrobot-v1",
            r"env is 'Acrobot-v1', whose observations are Box \[6\], and the agent was trained with Box \[4\]",
        ),
        ("CartPole-v9", "'CartPole-v9'"),
        (3, "env_id is 3; expected an id of Gymnasium"),
    ):
        with pytest.raises(ConfigError, match=said):
            agent.evaluate(2, env=env)


def test_another_kind_of_action_is_refused(trained):
    class Turned(gym.ActionWrapper):
        def __init__(self, env):
            super().__init__(env)
            self.action_space = gym.spaces.Discrete(3)

    said = r"whose actions are Discrete\(3\), and the agent was trained with Discrete\(2\)"
    with pytest.raises(ConfigError, match=said):
        rlpipe.load(trained).evaluate(2, env=EnvConfig("CartPole-v1", wrappers=(Turned,)))


def test_a_film_is_that_of_the_command(trained, capsys):
    agent = rlpipe.load(trained)
    options = ["--episodes", "2", "--seed", "4", "--fps", "20", "--size", "64", "--hold", "0.1", "--max-steps", "5"]
    by_command = printed(capsys, "render", trained.folder, "--out", "a.gif", "--quiet", *options)
    drawn = agent.render("b.gif", 2, seed=4, fps=20, size=64, hold=0.1, max_steps=5)
    assert drawn == {**by_command, "out": "b.gif"}
    assert Path("a.gif").read_bytes() == Path("b.gif").read_bytes()
    by_command = printed(capsys, "render", trained.folder, "--out", "c.gif", "--quiet", "--stochastic")
    assert agent.render("d.gif", deterministic=False) == {**by_command, "out": "d.gif"}


def test_a_file_is_that_of_the_command(trained, capsys):
    agent = rlpipe.load(trained)
    by_command = printed(capsys, "export", trained.folder, "--out", "a.safetensors")
    assert agent.export("b.safetensors") == {**by_command, "path": "b.safetensors"}
    a, b = (load_file(f"{name}.safetensors") for name in "ab")
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert agent.export("policy", format="safetensors")["format"] == "safetensors"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda agent: agent.evaluate(0), "episodes is 0; allowed is 1 or more and at most 1000000"),
        (lambda agent: agent.evaluate(2.5), "episodes is 2.5; expected a whole number"),
        (lambda agent: agent.evaluate(True), "episodes is True; expected a whole number"),
        (lambda agent: agent.evaluate(2, seed=-1), "seed is -1; allowed is 0 or more, below 2\\^63"),
        (lambda agent: agent.evaluate(2, seed="3"), "seed is '3'; expected a whole number"),
        (lambda agent: agent.evaluate(2, eval_envs=0), "eval_envs is 0; allowed is 1 or more and at most 1000"),
        (lambda agent: agent.render("there.gif"), "out there.gif exists already; nothing was overwritten"),
        (lambda agent: agent.render("a.png"), r"out is a.png; expected a name that ends in .gif or .mp4"),
        (lambda agent: agent.render("no/a.gif"), "out is no/a.gif, and there is no folder no"),
        (lambda agent: agent.render("a.gif", 1001), "episodes is 1001; allowed is 1 or more and at most 1000"),
        (lambda agent: agent.render("a.gif", fps=0), "fps is 0; allowed is 0.1 or more and at most 1000"),
        (lambda agent: agent.render("a.gif", hold="x"), "hold is 'x'; expected a number"),
        (lambda agent: agent.render("a.gif", size=3), "size is 3; allowed is 32 or more and at most 4096"),
        (lambda agent: agent.export("there.gif"), "out there.gif exists already; nothing was overwritten"),
        (lambda agent: agent.export("a.onnx", "torch"), "out is a.onnx, a name for format onnx, not torch"),
        (lambda agent: agent.export("a", "pickle"), "format is 'pickle'; allowed are onnx, torch, safetensors"),
        (lambda agent: agent.export("no/a.onnx"), "out no/a.onnx cannot be made: there is no folder no"),
    ],
)
def test_what_a_command_refuses_is_refused(trained, call, said):
    Path("there.gif").write_text("mine")
    with pytest.raises(ConfigError, match=said) as caught:
        call(trained.agent)
    assert "\n" not in str(caught.value)
    assert [(each.name, each.read_text()) for each in Path().iterdir()] == [("there.gif", "mine")]


def test_the_program_is_as_before(trained):
    class Counting(nn.Module):
        """Notes the number of threads with which a policy acts."""

        def __init__(self, network):
            super().__init__()
            self.network, self.seen = network, set()

        def forward(self, *entries):
            self.seen.add(torch.get_num_threads())
            return self.network(*entries)

    agent = rlpipe.load(trained)
    counting = agent.policy.network = Counting(agent.policy.network)
    drawn = torch.get_rng_state()
    torch.set_num_threads(2)
    try:
        rlpipe.load(trained)
        agent.evaluate(2)
        agent.render("a.gif", max_steps=3)
        agent.export("a.safetensors")
        assert counting.seen == {1}
        agent.predict([0.0, 0.0, 0.0, 0.0])
        assert counting.seen == {1, 2}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert torch.equal(torch.get_rng_state(), drawn)


def test_an_environment_that_has_no_name_is_given_again():
    rlpipe.train("ppo", env=lambda: gym.make("CartPole-v1"), folder="run", **SMALL)
    with pytest.raises(CheckpointError, match=r"give it again from Python, with rlpipe.load\('run', env=...\)"):
        rlpipe.load("run")
    assert rlpipe.load("run", env="CartPole-v1").evaluate(2).returns
