"""`rlpipe export`: what is written acts as the policy does, without rlpipe, on raw observations."""

import json
import os
import re
import shutil

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from safetensors import safe_open
from torchrl.data import Bounded
from torchrl.envs import ObservationNorm
from torchrl.envs.utils import ExplorationType, set_exploration_type

from rlpipe.errors import ConfigError
from rlpipe.pipelines.agents import export
from rlpipe.pipelines.agents.greedy_policy import GreedyPolicy
from rlpipe.pipelines.agents.load import trained
from rlpipe.pipelines.envs import make_env
from rlpipe.pipelines.envs.frozen_transforms import append_frozen
from rlpipe.pipelines.front_door import run_recipe
from rlpipe.scripts import export as export_command
from rlpipe.scripts.main import run

SHORT = {"total_frames": 128, "eval_every": 10_000, "eval_episodes": 1, "final_eval_episodes": 1, "num_envs": 2}
SMALL = {**SHORT, "hidden": (8,), "rollout_steps": 32}
PPO = {**SMALL, "minibatch_size": 32}
DQN = {**SHORT, "hidden": (8,), "minibatch_size": 8, "warmup_frames": 32, "buffer_size": 1_000}
ACTIONS = {
    "whole": Box(np.array([-3, 10**9]), np.array([3, 10**9 + 5]), dtype=np.int64),
    "unsigned": Box(0, 9, (2, 2), np.uint16),
    "tenth": Box(0.0, 0.1, (2,), np.float64),
    "half": Box(-1.0, 1.0, (1,), np.float16),
    "open": Box(np.array([-np.inf, 0, -np.inf, 2], np.float32), np.array([np.inf, np.inf, 3, 2], np.float32)),
}


class Strict(gym.Env):
    """Refuses an action that is not in its space."""

    observation_space = Box(-1, 1, (3,), np.float32)

    def __init__(self, space):
        self.action_space = space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self.np_random.uniform(-1, 1, 3).astype(np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.time += 1
        return self.np_random.uniform(-1, 1, 3).astype(np.float32), 1.0, False, self.time >= 9, {}


for name, space in ACTIONS.items():
    gym.register(f"tests/Export-{name}-v0", lambda space=space, **_: Strict(space))

TORCH_ONLY = ("whole", "tenth", "half")
KINDS = {
    **{name: ("ppo", {**PPO, "env_id": f"tests/Export-{name}-v0"}) for name in ACTIONS},
    "ppo": ("ppo", PPO),
    "pendulum": ("ppo", {**PPO, "env_id": "Pendulum-v1", "normalize_observation": True}),
    "matrix": ("ppo", {**PPO, "env_id": "tests/Matrix-v0", "state_dependent_std": True}),
    "one-hot": ("ppo", {**PPO, "env_id": "FrozenLake-v1"}),
    "from-7": ("dqn", {**DQN, "env_id": "tests/IdentityFrom7-v0"}),
    "dueling": ("dqn", {**DQN, "dueling": True, "layer_norm": True, "observation_scale": (1.0, 2.0, 0.2, 3.0)}),
    "a2c": ("a2c", SMALL),
    "pixels": ("dqn", {**DQN, "env_id": "rlpipe/Maze-v0", "from_pixels": True, "total_frames": 64, "updates": 1}),
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
    [
        *[(kind, ".onnx") for kind in KINDS if kind not in TORCH_ONLY],
        *[(kind, ".pt2") for kind in ("pendulum", "from-7", "maze", "bins", *TORCH_ONLY)],
    ],
)
def test_acts_as_the_policy_does(runs, tmp_path, capsys, kind, suffix):
    if suffix == ".onnx":
        pytest.importorskip("onnx")
    out = tmp_path / f"agent{suffix}"
    assert (
        run(["export", str(runs(kind)), "--format", {".onnx": "onnx", ".pt2": "torch"}[suffix], "--out", str(out)]) == 0
    )
    # of a custom environment no more copies are open than in training, and fewer are visited
    visited = re.search(r"acts as the policy does on (\d+) observations", capsys.readouterr().out)
    assert visited
    assert int(visited[1]) >= 384
    act, steps = actor(out), 100
    with trained(runs(kind)) as agent, set_exploration_type(ExplorationType.DETERMINISTIC), torch.no_grad():
        env = make_env(agent.config.env, seed=5)
        append_frozen(env, agent.transforms)
        base, step = env.base_env, env.reset()
        start = getattr(base.spaces["observation"], "start", 0)
        for _ in range(steps):
            raw = [base.root["observation"] + start if start else base.root["observation"]]
            raw += [base.root["action_mask"]] if "action_mask" in base.root else []
            expected = base.cast_action(agent.policy(step)["action"].numpy())
            given = act(*raw)
            assert given.dtype == expected.dtype
            assert all(base.envs.single_action_space.contains(each) for each in given)
            np.testing.assert_allclose(given, expected, rtol=0, atol=2e-3 if expected.dtype == np.float16 else 1e-5)
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
        assert json.loads(described["config"])["normalize_observation"]
        assert sorted(file.keys()) == sorted(each["name"] for each in written["tensors"])
        weights, moments = agent.policy.state_dict(), agent.transforms[0].each()[0]
        assert torch.equal(file.get_tensor("policy.network.1.weight"), weights["network.1.weight"])
        assert file.get_tensor("action.low").tolist() == [-2.0]
        assert torch.equal(file.get_tensor("observation.mean"), torch.from_numpy(moments.now.mean))
        assert torch.equal(file.get_tensor("observation.std"), torch.from_numpy(moments.std()))
        assert file.get_tensor("observation.clip") == 10.0


def test_the_default_name_is_that_of_the_run(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        code = run(["export", str(runs("maze"))])
    assert code == 2
    assert "exists already; nothing was overwritten, name a new one" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["q-learning-maze-0-128.safetensors"]


def test_what_acts_otherwise_gets_no_name(runs, tmp_path, monkeypatch, capsys):
    write = export._write_torch

    def write_another(*given):
        act = write(*given)
        return lambda *inputs: act(*inputs) + 1

    monkeypatch.setattr(export, "_write_torch", write_another)
    for kind in ("ppo", "pendulum"):
        assert run(["export", str(runs(kind)), "--format", "torch", "--out", str(tmp_path / "agent.pt2")]) == 1
        assert "what was exported does not act as the policy does" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".safetensors", ".pt2", ".onnx"])
def test_the_suffix_says_which_format(runs, tmp_path, capsys, suffix):
    if suffix == ".onnx":
        pytest.importorskip("onnx")
    out = tmp_path / f"a\nb{suffix}"
    assert run(["export", str(runs("maze")), "--out", str(out)]) == 0
    kind = {".pt2": "torch"}.get(suffix, suffix[1:])
    first = capsys.readouterr().out.splitlines()[0]
    assert first == f"{tmp_path}/a b{suffix}, {out.stat().st_size:,} bytes, {kind}"
    mask = os.umask(0)
    os.umask(mask)
    assert out.stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize("suffix", [".safetensors", ".pt2"])
def test_what_cannot_be_written_is_a_failure(runs, tmp_path, monkeypatch, capsys, suffix):
    folder = runs("maze")
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        code = run(["export", str(folder), "--out", str(tmp_path / f"a{suffix}")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 1
    said = capsys.readouterr().err
    assert said == f"rlpipe: error: out {tmp_path}/a{suffix} cannot be written: File too large\n"
    assert not list(tmp_path.iterdir())


def test_what_came_while_it_was_written_stays(runs, tmp_path, monkeypatch, capsys):
    out = tmp_path / "a.safetensors"
    folder = runs("maze")
    out.write_text("mine")
    # as if it came just after somebody looked
    monkeypatch.setattr("os.path.lexists", lambda _: False)
    assert run(["export", str(folder), "--out", str(out)]) == 2
    assert "exists already; nothing was overwritten, name a new one" in capsys.readouterr().err
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("a.safetensors", "mine")]


def test_the_checkpoint_of_the_name_is_exported(runs, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    shutil.copytree(runs("maze"), folder)
    monkeypatch.chdir(tmp_path)
    look = export_command.check_new

    def train_on(out, kind):
        newer = folder / "checkpoints" / "frames-000000000256"
        newer.mkdir()
        look(out, kind)

    monkeypatch.setattr(export_command, "check_new", train_on)
    assert run(["export", str(folder), "--json"]) == 0
    with safe_open(json.loads(capsys.readouterr().out)["path"], "pt") as file:
        assert file.metadata()["frames"] == "128"


@pytest.mark.parametrize(
    ("low", "high"), [(100, 200), (-200, -100), (100, np.inf), (-np.inf, np.inf), (-1, 1), (-3.4e38, 3.4e38)]
)
@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_random_observations_lie_in_their_space(runs, monkeypatch, low, high, dtype):
    if dtype is np.int64:
        low, high = (int(np.clip(each, -1000, 1000)) for each in (low, high))
    # the second one has other bounds
    space = gym.spaces.Box(np.array([low, 0], dtype), np.array([high, 3], dtype), dtype=dtype)
    with trained(runs("ppo")) as agent:
        greedy = export.GreedyPolicy(agent)
    greedy.specs["observation"] = Bounded(
        torch.tensor(space.low), torch.tensor(space.high), space.shape, dtype=torch.tensor(space.low).dtype
    )
    (observations,) = greedy.example(64)
    assert all(each in space for each in observations.numpy())
    assert observations.unique(dim=0).shape[0] > 5


def test_bad_input(runs, tmp_path, monkeypatch, capsys):
    out = tmp_path / "agent.onnx"
    for arguments, said in (
        (["--format", "pickle"], "--format is 'pickle'; allowed are onnx, "),
        (["--out", str(tmp_path)], "exists already"),
        (["--out", str(tmp_path / "no" / "agent")], "cannot be made: there is no folder"),
        (["--format", "torch", "--out", str(out)], "a name for format onnx, not torch; leave out --format"),
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
            export.GreedyPolicy(agent)


@pytest.mark.parametrize(
    ("transform", "what"),
    [
        (ObservationNorm(torch.zeros(3, 4), torch.ones(3, 4), ["observation"], standard_normal=True), "observation"),
        (ObservationNorm(0.0, 1.0, ["observation"], ["other"], standard_normal=True), "observation"),
        (ObservationNorm(0.0, 1.0, [], [], ["action"], ["action"]), "action"),
    ],
)
def test_a_transform_that_no_program_has_is_refused(transform, what, runs):
    with trained(runs("ppo")) as agent:
        agent.pipeline.transforms = [transform]
        with pytest.raises(ConfigError, match=f"ObservationNorm of the {what} cannot be exported"):
            GreedyPolicy(agent)


def test_a_normalisation_of_rewards_does_not_change_observations(runs):
    with trained(runs("ppo")) as agent:
        agent.pipeline.transforms = [ObservationNorm(0.0, 2.0, ["reward"], standard_normal=True)]
        assert not len(GreedyPolicy(agent).transforms)
