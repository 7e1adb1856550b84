"""`rlpipe export`: what is written acts as the policy does, without rlpipe, on raw observations."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torchrl.envs.utils import ExplorationType, set_exploration_type

from rlpipe.errors import ConfigError
from rlpipe.pipelines import exporting
from rlpipe.pipelines.envs import make_env
from rlpipe.pipelines.session import run_recipe
from rlpipe.pipelines.trained import trained
from rlpipe.scripts.main import run

SHORT = {"total_frames": 128, "eval_every": 10_000, "eval_episodes": 1, "final_eval_episodes": 1, "num_envs": 2}
SMALL = {**SHORT, "hidden": (8,), "rollout_steps": 32}
PPO = {**SMALL, "minibatch_size": 32}
DQN = {**SHORT, "hidden": (8,), "minibatch_size": 8, "warmup_frames": 32, "buffer_size": 1_000}
KINDS = {
    "ppo": ("ppo", PPO),
    "pendulum": ("ppo", {**PPO, "env_id": "Pendulum-v1", "normalize_frames": 100}),
    "matrix": ("ppo", {**PPO, "env_id": "tests/Matrix-v0", "state_dependent_std": True}),
    "one-hot": ("ppo", {**PPO, "env_id": "FrozenLake-v1"}),
    "from-7": ("dqn", {**DQN, "env_id": "tests/IdentityFrom7-v0"}),
    "dueling": ("dqn", {**DQN, "dueling": True, "layer_norm": True, "observation_scale": (1.0, 2.0, 0.2, 3.0)}),
    "a2c": ("a2c", SMALL),
    "reinforce": ("reinforce", {**SMALL, "rollout_steps": 250}),
    "maze": ("q-learning/maze", SHORT),
    "lake": ("q-learning/maze", {**SHORT, "env_id": "FrozenLake-v1"}),
    "preferences": ("policy-gradient/maze", SHORT),
    "bins": ("q-learning/cartpole-bins", {**SHORT, "gif": False}),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A function that trains a kind of run once, and gives its folder."""
    made = {}

    def folder(kind):
        if kind not in made:
            recipe, options = KINDS[kind]
            made[kind] = tmp_path_factory.mktemp(kind) / "run"
            run_recipe(recipe, folder=made[kind], loggers=(), **options)
        return made[kind]

    return folder


def actor(file):
    """A function of raw observations, of the file alone."""
    if file.suffix == ".pt2":
        program = torch.export.load(file).module()
        return lambda *inputs: program(*map(torch.from_numpy, inputs)).numpy()
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    return lambda *inputs: session.run(None, dict(zip(names, inputs, strict=True)))[0]


@pytest.mark.parametrize(
    ("kind", "suffix"),
    # both are made of one program
    [*[(kind, ".onnx") for kind in KINDS], *[(kind, ".pt2") for kind in ("pendulum", "from-7", "maze", "bins")]],
)
def test_acts_as_the_policy_does(runs, tmp_path, capsys, kind, suffix):
    if suffix == ".onnx":
        pytest.importorskip("onnx")
    out = tmp_path / f"agent{suffix}"
    assert (
        run(["export", str(runs(kind)), "--format", {".onnx": "onnx", ".pt2": "torch"}[suffix], "--out", str(out)]) == 0
    )
    assert "acts as the policy does on 512 observations" in capsys.readouterr().out
    act, steps = actor(out), 100
    with trained(runs(kind)) as agent, set_exploration_type(ExplorationType.DETERMINISTIC), torch.no_grad():
        env = make_env(agent.config.env, seed=5, transforms=[each.clone() for each in agent.transforms])
        base, step = env.base_env, env.reset()
        starts = (getattr(base.spaces["observation"], "start", 0), getattr(base.envs.single_action_space, "start", 0))
        for _ in range(steps):
            raw = [base.root["observation"] + starts[0] if starts[0] else base.root["observation"]]
            raw += [base.root["action_mask"]] if "action_mask" in base.root else []
            expected = agent.policy(step)["action"].numpy() + starts[1]
            if expected.dtype == np.int64:
                np.testing.assert_array_equal(act(*raw), expected)
            else:
                np.testing.assert_allclose(act(*raw), expected, rtol=0, atol=1e-5)
            _, step = env.step_and_maybe_reset(step)
        env.close()


def test_safetensors_hold_the_policy_and_say_what_it_is(runs, tmp_path, capsys):
    out = tmp_path / "agent.safetensors"
    assert run(["export", str(runs("pendulum")), "--out", str(out), "--json"]) == 0
    written = json.loads(capsys.readouterr().out)
    assert written["bytes"] == out.stat().st_size
    with safe_open(out, "pt") as file, trained(runs("pendulum")) as agent:
        described = file.metadata()
        assert (described["recipe"], described["env_id"], described["frames"]) == ("ppo", "Pendulum-v1", "128")
        assert json.loads(described["config"])["normalize_frames"] == 100
        assert sorted(file.keys()) == sorted(each["name"] for each in written["tensors"])
        weights = agent.policy.state_dict()
        assert torch.equal(file.get_tensor("policy.network.1.weight"), weights["network.1.weight"])
        assert file.get_tensor("action.low").tolist() == [-2.0]
        assert torch.equal(file.get_tensor("observation.mean"), agent.transforms[0].loc)
        assert torch.equal(file.get_tensor("observation.std"), agent.transforms[0].scale)


def test_the_default_name_is_that_of_the_run(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        code = run(["export", str(runs("maze"))])
    assert code == 2
    assert "exists already; nothing was overwritten, name a new one" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["q-learning-maze-0-128.safetensors"]


def test_what_acts_otherwise_gets_no_name(runs, tmp_path, monkeypatch, capsys):
    write = exporting._write_torch

    def write_another(*given):
        act = write(*given)
        return lambda *inputs: act(*inputs) + 1

    monkeypatch.setattr(exporting, "_write_torch", write_another)
    for kind in ("ppo", "pendulum"):
        assert run(["export", str(runs(kind)), "--format", "torch", "--out", str(tmp_path / "agent.pt2")]) == 2
        assert "what was exported does not act as the policy does" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_bad_input(runs, tmp_path, monkeypatch, capsys):
    out = tmp_path / "agent.onnx"
    for arguments, said in (
        (["--format", "pickle"], "invalid choice 'pickle'"),
        (["--out", str(tmp_path)], "exists already"),
        (["--out", str(tmp_path / "no" / "agent")], "cannot be made: there is no folder"),
        (["--fromat", "onnx"], "did you mean --format?"),
    ):
        assert run(["export", str(runs("maze")), *arguments]) == 2
        assert said in capsys.readouterr().err
    assert run(["export", str(tmp_path)]) == 2
    assert "is no run" in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert run(["export", str(runs("maze")), "--format", "onnx", "--out", str(out)]) == 2
    assert 'format onnx needs an extra: pip install "rlpipe[onnx]"' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_strange_policy_is_refused(runs):
    with trained(runs("ppo")) as agent:
        agent.policy.register_forward_hook(lambda *_: None)
        with pytest.raises(ConfigError, match="a policy of kind CategoricalActor cannot be exported"):
            exporting.GreedyPolicy(agent)
