"""`rlpipe export` of policies over nested spaces: inputs and outputs are the entries, by name."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from safetensors.torch import load_file
from torchrl.envs.utils import ExplorationType, set_exploration_type

from rlpipe.pipelines.agents.export_check import _check_choice
from rlpipe.pipelines.agents.load import trained
from rlpipe.pipelines.envs import make_env
from rlpipe.pipelines.envs.entries import leaves_of, name_of, nest
from rlpipe.pipelines.front_door import run_recipe
from rlpipe.scripts.main import run

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

MANY = Dict(
    far=Box(-1, 1, (2, 3), np.float64),
    room=Dict(floor=Discrete(4, start=-2), doors=MultiBinary((2, 2))),
    dials=MultiDiscrete([3, 4], start=[5, -1]),
    parts=Tuple([Discrete(3), Box(0, 255, (2,), np.uint8)]),
)
SPACES = {
    "Nested": (MANY, Dict(arm=Tuple([Box(-1, 2, (2,), np.float32), MultiBinary(3)]), move=Discrete(3, start=1))),
    "Dials": (Box(-1, 1, (3,), np.float32), MultiDiscrete([[2, 3], [4, 2]], start=[[0, 1], [-2, 3]])),
    "Masked": (Dict(seen=Discrete(3), action_mask=Tuple([MultiBinary(2), MultiBinary(3)])), MultiDiscrete([2, 3])),
    "Unsorted": (
        Box(-1, 1, (2,), np.float32),
        Dict(z=Box(2, 3, (), np.float32), n=Dict(k=MultiBinary(2)), a=Discrete(3), b=Box(-1, 4, (2,), np.float32)),
    ),
    "Few": (Tuple([Discrete(3), Discrete(2)]), MultiDiscrete([2, 3], start=[0, 4])),
}


class Sampled(gym.Env):
    """Observes samples of its space; refuses an action that is not in its other one."""

    def __init__(self, name, **_):
        self.observation_space, self.action_space = SPACES[name]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        if seed is not None:
            self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.time += 1
        return self.observation_space.sample(), 1.0, False, self.time >= 9, {}


# what Gymnasium says to a number for a Box of no dimensions, which its vector environments give
pytestmark = pytest.mark.filterwarnings("ignore:.*Casting input x to numpy array")

for each in SPACES:
    gym.register(f"tests/Export{each}-v0", Sampled, kwargs={"name": each})


def program(file):
    """A function from raw entries to the entries of actions, of the file alone; and the names of its inputs."""
    if file.suffix == ".pt2":
        act = torch.export.load(file).module()

        def run_program(*entries):
            given = act(*map(torch.from_numpy, entries))
            return [each.numpy() for each in (given if isinstance(given, tuple) else (given,))]

        return run_program, None
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    return lambda *entries: session.run(None, dict(zip(names, entries, strict=True))), names


@pytest.mark.parametrize(
    ("recipe", "name", "suffix"),
    [
        ("ppo", "Nested", ".onnx"),
        ("a2c", "Nested", ".pt2"),
        ("ppo", "Dials", ".onnx"),
        ("ppo", "Masked", ".onnx"),
        ("ppo", "Unsorted", ".pt2"),
        ("dqn", "Few", ".onnx"),
        ("dqn", "Masked", ".onnx"),
    ],
)
def test_a_program_takes_raw_entries_and_gives_actions_of_the_space(tmp_path, recipe, name, suffix):
    own = {"rollout_steps": 32} | ({"warmup_frames": 32, "minibatch_size": 8} if recipe == "dqn" else {})
    own |= {"minibatch_size": 32} if recipe == "ppo" else {}
    shared = {"num_envs": 2, "hidden": (8,), "total_frames": 64, "final_eval_episodes": 1, "loggers": ()}
    env_id, folder, out = f"tests/Export{name}-v0", tmp_path / "run", tmp_path / f"agent{suffix}"
    run_recipe(recipe, env_id=env_id, folder=folder, **shared, **own)
    assert run(["export", str(folder), "--out", str(out)]) == 0
    act, names = program(out)
    with trained(folder) as agent, set_exploration_type(ExplorationType.DETERMINISTIC), torch.no_grad():
        env = make_env(agent.config.env, seed=5)
        base, step = env.base_env, env.reset()
        keys = list(base.spaces)
        if names is not None:
            assert names == [name_of(key) for key in keys]
        space, leaves = base.envs.single_action_space, leaves_of(base.envs.single_action_space, "action")
        for _ in range(20):
            raw = [base.root[key] + getattr(base.spaces[key], "start", 0) for key in keys if key != "action_mask"]
            raw += [base.root[key] for key in keys if key == "action_mask"]
            given = dict(zip(leaves, act(*raw), strict=True))
            expected = base.cast_action(base.actions_in(agent.policy(step)))
            for key, leaf in leaves.items():
                np.testing.assert_allclose(given[key], leaf.get(expected), rtol=0, atol=1e-5)
            for index in range(2):
                assert space.contains(nest(leaves, {key: each[index] for key, each in given.items()}, space))
            _, step = env.step_and_maybe_reset(step)
        env.close()


@pytest.mark.parametrize(
    ("name", "bounds"),
    [
        ("Nested", {"action.arm.0.low": [-1.0] * 2, "action.arm.0.high": [2.0] * 2}),
        (
            "Unsorted",
            {"action.z.low": 2.0, "action.z.high": 3.0, "action.b.low": [-1.0] * 2, "action.b.high": [4.0] * 2},
        ),
    ],
)
def test_safetensors_name_the_bounds_of_each_entry(tmp_path, name, bounds):
    folder, out = tmp_path / "run", tmp_path / "agent.safetensors"
    run_recipe(
        "ppo",
        env_id=f"tests/Export{name}-v0",
        folder=folder,
        num_envs=2,
        hidden=(8,),
        rollout_steps=32,
        minibatch_size=32,
        total_frames=64,
        final_eval_episodes=1,
        loggers=(),
    )
    assert run(["export", str(folder), "--out", str(out)]) == 0
    tensors = load_file(out)
    assert {name: tensors[name].tolist() for name in tensors if name.startswith("action.")} == bounds


def test_another_choice_of_one_number_is_seen():
    scores = torch.tensor([[[0.0, 1.0, -5.0], [2.0, 2.0, 0.0]]])
    # the second number's first two choices are tied
    _check_choice(torch.tensor([[1, 1]]), torch.tensor([[1, 0]]), scores)
    with pytest.raises(Exception, match="takes another action"):
        _check_choice(torch.tensor([[0, 0]]), torch.tensor([[1, 0]]), scores)
