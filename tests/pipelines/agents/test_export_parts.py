"""Exports of policies of several parts, of deterministic ones, and of quantiles."""

import pytest
import torch
from safetensors.torch import load_file
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn

from rlpipe.errors import ConfigError
from rlpipe.modules import (
    MLP,
    CategoricalActor,
    DeterministicActor,
    EpsilonGreedy,
    GaussianNoise,
    OrnsteinUhlenbeck,
    QuantileActor,
    TensorModule,
)
from rlpipe.pipelines.agents.export import export
from rlpipe.pipelines.agents.greedy_policy import GreedyPolicy
from rlpipe.pipelines.agents.load import trained
from rlpipe.pipelines.envs import make_env
from rlpipe.pipelines.front_door import run_recipe

SHORT = {"total_frames": 64, "num_envs": 2, "rollout_steps": 32, "hidden": (8,), "minibatch_size": 32}


class Features(TensorModule):
    """An encoder of a user's own."""

    def __init__(self, network):
        super().__init__()
        self.name_keys(network, [], ["features"])
        self.network = network

    def compute(self, *entries):
        return (self.through(self.network, *entries),)


POLICIES = {
    "gaussian noise": ("Pendulum-v1", lambda spec: [DeterministicActor(MLP(3, 1), spec), GaussianNoise(spec, 0.5)]),
    "lasting noise": ("Pendulum-v1", lambda spec: [DeterministicActor(MLP(3, 1), spec), OrnsteinUhlenbeck(spec)]),
    "renamed": (
        "Pendulum-v1",
        lambda spec: [
            Features(MLP(3, None)),
            DeterministicActor(nn.Linear(64, 1), spec, in_keys=["features"], out_keys=["greedy"]),
            GaussianNoise(spec, 0.5, in_keys=["greedy"]),
        ],
    ),
    "quantiles": ("CartPole-v1", lambda spec: [QuantileActor(MLP(4, 10), spec, 5), EpsilonGreedy(spec, 0.5)]),
    "encoder": (
        "CartPole-v1",
        lambda spec: [Features(MLP(4, None)), CategoricalActor(nn.Linear(64, 2), spec, in_keys=["features"])],
    ),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run on each environment, whose policies are replaced."""
    made = {}
    for env_id in ("Pendulum-v1", "CartPole-v1"):
        made[env_id] = tmp_path_factory.mktemp(env_id) / "run"
        run_recipe("ppo", folder=made[env_id], env_id=env_id, loggers=(), final_eval_episodes=1, **SHORT)
    return made


def put(agent, parts):
    env = make_env(agent.config.env, seed=0)
    torch.manual_seed(0)
    agent.pipeline.policy = TensorDictSequential(*parts(env.action_spec))
    env.close()


@pytest.mark.parametrize(
    ("name", "kind"), [*((name, "torch") for name in POLICIES), ("lasting noise", "onnx"), ("quantiles", "onnx")]
)
def test_it_acts_as_the_policy_does(name, kind, runs, tmp_path):
    if kind == "onnx":
        pytest.importorskip("onnx")
    env_id, parts = POLICIES[name]
    with trained(runs[env_id]) as agent:
        put(agent, parts)
        written = export(agent, kind, tmp_path / "agent")
        assert written["checked"] > 300
        assert written["apart"] < 1e-5
        assert [each["name"] for each in written["inputs"]] == ["observation"]


@pytest.mark.parametrize("name", POLICIES)
def test_safetensors_name_the_actor_policy_and_others_by_their_place(name, runs, tmp_path):
    env_id, parts = POLICIES[name]
    with trained(runs[env_id]) as agent:
        put(agent, parts)
        export(agent, "safetensors", tmp_path / "agent")
        tensors, state = load_file(tmp_path / "agent"), agent.policy.state_dict()
    behind = name in ("renamed", "encoder")
    expected = {
        key.replace("module.0", "part.0" if behind else "policy").replace("module.1", "policy"): value
        for key, value in state.items()
        if isinstance(value, torch.Tensor)
    }
    if env_id == "Pendulum-v1":
        expected |= {f"action.{bound}": expected.pop(f"policy.{bound}") for bound in ("low", "high")}
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[key], expected[key]) for key in expected)


def test_a_part_that_is_not_rlpipes_is_named(runs):
    with trained(runs["CartPole-v1"]) as agent:
        put(
            agent,
            lambda spec: [
                TensorDictModule(MLP(4, None), ["observation"], ["features"]),
                CategoricalActor(nn.Linear(64, 2), spec, in_keys=["features"]),
            ],
        )
        with pytest.raises(ConfigError, match="a part of kind TensorDictModule, which is no TensorModule of rlpipe"):
            GreedyPolicy(agent)
