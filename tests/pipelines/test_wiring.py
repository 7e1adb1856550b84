"""Every field of a Config changes the run that is built from it, and only as it says."""

import dataclasses

import pytest
import torch

from rlpipe.pipelines import dqn, ppo
from rlpipe.pipelines.recipes import find_recipe

# fields of the loop around a pipeline: tests/pipelines/test_training.py and tests/scripts have these
LOOP = {
    "total_episodes",
    "stop_at_return",
    "eval_every",
    "eval_episodes",
    "final_eval_episodes",
    "checkpoint_every",
    "threads",
    "device",
    # gives the same run by another way: tests/pipelines/test_envs.py
    "backend",
}
SHARED = {
    "env_id": "Acrobot-v1",
    "num_envs": 5,
    "max_episode_steps": 9,
    "total_frames": 10_000,
    "seed": 1,
    "hidden": (16,),
    "activation": "silu",
    "observation_scale": (0.5, 1.0, 0.2, 0.5),
    "optimizer": "adamw",
    "amsgrad": True,
    "lr": 1e-3,
    "lr_schedule": "cosine",
    "adam_eps": 1e-2,
    "rollout_steps": 12,
    "minibatch_size": 16,
    "gamma": 0.5,
    "max_grad_norm": 0.01,
}
PPO = {
    "initialization": "default",
    "layer_norm": True,
    "epochs": 3,
    "lmbda": 0.5,
    "clip": 0.01,
    "value_clip": 0.01,
    "value_kind": "smooth_l1",
    "value_coefficient": 2.0,
    "entropy_coefficient": 0.1,
    "normalize_advantage": False,
    "shared_trunk": True,
}
DQN = {
    "initialization": "orthogonal",
    "layer_norm": False,
    "updates": 3,
    "buffer_size": 60,
    "warmup_frames": 20,
    "n_steps": 1,
    "kind": "mse",
    "double": False,
    "dueling": True,
    "target_network": False,
    "tau": 0.9,
    "target_every": 3,
    "max_grad_value": 1e-4,
    "epsilon_schedule": "harmonic",
    "epsilon_start": 0.5,
    "epsilon_end": 0.9,
    "epsilon_frames": 100,
    "epsilon_factor": 0.5,
}
# fields that show only beside others
BESIDE = {
    "target_network": {"double": False},
    "epsilon_factor": {"epsilon_schedule": "geometric"},
    "amsgrad": {"lr": 0.1},
}
BASE = {
    ppo: {"num_envs": 4, "rollout_steps": 8, "minibatch_size": 32, "epochs": 2, "total_frames": 1000},
    dqn: {
        "num_envs": 4,
        "rollout_steps": 8,
        "minibatch_size": 32,
        "updates": 2,
        "warmup_frames": 50,
        "total_frames": 1000,
    },
}
CASES = [(ppo, name, value) for name, value in {**SHARED, **PPO}.items()]
CASES += [(dqn, name, value) for name, value in {**SHARED, **DQN}.items()]


def trace(module, batches=6, **settings):
    """All that is collected and learned in a few batches, in one list."""
    config = module.Config(**{**BASE[module], **settings})
    pipeline = module.build(config)
    seen = []
    for batch, _ in zip(pipeline.collector, range(batches), strict=False):
        scalars = pipeline.learn(batch)
        seen.append({key: value.item() for key, value in scalars.items()})
        seen.append(batch["observation"].flatten().tolist())
    pipeline.close()
    return seen


@pytest.fixture(scope="module")
def traces():
    return {}


@pytest.mark.parametrize(
    ("module", "name", "value"), CASES, ids=[f"{case[0].__name__[-3:]}-{case[1]}" for case in CASES]
)
def test_every_field_changes_the_run(module, name, value, traces):
    beside = BESIDE.get(name, {})
    key = (module, *beside)
    if key not in traces:
        traces[key] = trace(module, **beside)
    assert trace(module, **{**beside, name: value}) != traces[key]


@pytest.mark.parametrize("module", [ppo, dqn])
def test_no_field_is_forgotten_here(module):
    tried = {name for tested, name, _ in CASES if tested is module}
    assert tried | LOOP == {field.name for field in dataclasses.fields(module.Config)}


def test_gamma_and_lambda_are_not_mixed_up():
    # without a future, lambda has nothing to weigh
    assert trace(ppo, gamma=0.0, lmbda=0.1) == trace(ppo, gamma=0.0, lmbda=0.9)
    assert trace(ppo, gamma=0.9, lmbda=0.0) != trace(ppo, gamma=0.1, lmbda=0.0)


@pytest.mark.parametrize("name", ["value", "entropy"])
def test_coefficients_weigh_their_own_terms(name):
    scalars = trace(ppo, batches=1, **{"entropy_coefficient": 0.1, f"{name}_coefficient": 0.0})[0]
    silent = {key for key, value in scalars.items() if key.startswith("loss_") and value == 0.0}
    assert silent == {f"loss_{name}"}


def test_optimizers_are_what_they_are_called():
    for name, kind in (("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)):
        pipeline = ppo.build(ppo.Config(optimizer=name, adam_eps=0.125, lr=0.25, amsgrad=True))
        optimizer = pipeline.state["optimizer"]
        assert type(optimizer) is kind
        group = optimizer.param_groups[0]
        assert (group["eps"], group["lr"], group["amsgrad"]) == (0.125, 0.25, True)
        pipeline.close()


def test_target_network_recipe_has_its_sources_figures():
    config = find_recipe("dqn/target-network").config()
    pipeline = dqn.build(config)
    network, loss = pipeline.policy[0].network, pipeline.state["loss"]
    assert not any(isinstance(layer, torch.nn.LayerNorm) for layer in network.modules())
    assert {type(layer) for layer in network.modules() if "activation" in type(layer).__module__} == {torch.nn.ReLU}
    assert [tuple(p.shape) for p in network.parameters() if p.ndim == 2] == [(128, 4), (128, 128), (2, 128)]
    assert (loss.kind, loss.double) == ("smooth_l1", False)
    assert (pipeline.state["target"].tau, pipeline.state["target"].every) == (0.005, 1)
    group = pipeline.state["optimizer"].param_groups[0]
    assert (group["lr"], group["amsgrad"], group["weight_decay"]) == (1e-4, True, 0.01)
    # one update a frame, on minibatches of 128 from the last 10 000 transitions
    assert config.updates == config.num_envs * config.rollout_steps
    assert (config.minibatch_size, config.buffer_size, config.total_episodes) == (128, 10_000, 600)
    assert (config.gamma, config.n_steps, config.max_grad_value, config.max_grad_norm) == (0.99, 1, 100.0, None)
    epsilon = pipeline.policy[1].schedule
    assert [round(epsilon(frames, 0), 4) for frames in (0, 1000, 100_000)] == [0.9, 0.3627, 0.05]
    pipeline.close()
