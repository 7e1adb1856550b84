"""Every field of a Config changes the run that is built from it, and only as it says."""

import dataclasses

import pytest
import torch

from rlpipe.pipelines.algorithms import a2c, dqn, policy_gradient, ppo, q_learning, qr_dqn, reinforce, sac, sarsa, td3
from rlpipe.pipelines.algorithms.recipes import RECIPES
from rlpipe.pipelines.config.continuous import ContinuousConfig
from rlpipe.pipelines.config.groups import LivesConfig, OptimizerConfig

# fields of the loop around a pipeline: tested in test_loop.py, test_stopping.py and tests/scripts
LOOP = {
    "total_episodes",
    "stop_at_return",
    "stop_at_mean",
    "stop_window",
    "stop_after_successes",
    "success_return",
    "eval_every",
    "eval_episodes",
    "eval_envs",
    "eval_stochastic",
    "eval_env_id",
    # tests/pipelines/envs/wrappers and arguments, tests/pipelines/config/test_env_arguments.py
    "env_kwargs",
    "eval_env_kwargs",
    "wrapper",
    "frame_stack",
    "action_repeat",
    "time_aware",
    "final_eval_episodes",
    "checkpoint_every",
    "log_every",
    "log_info",
    "curve_window",
    "gif",
    "threads",
    "device",
    # listeners of the training loop: tests/pipelines/config/test_config_schedules.py
    "schedule",
    # give the same run in another way: test_stepping.py, test_recorder.py, test_processes.py, test_image_buffer.py
    "backend",
    "compile",
    "cuda_graphs",
    "collector",
    "num_collectors",
    "asynchronous",
    "replay_storage",
    # test_pixel_observation.py
    "from_pixels",
    # where Ray places collectors: tests/pipelines/collectors/test_ray.py
    "ray_address",
    "ray_cpus",
    "ray_gpus",
    "ray_memory",
}
ENVIRONMENT = {"env_id": "Acrobot-v1", "num_envs": 5, "max_episode_steps": 9, "seed": 1}
SHAPING = {"reward_shaping": "outcome", "shaping_steps": 5}
SHARED = {
    **ENVIRONMENT,
    **SHAPING,
    "normalize_observation": True,
    "normalize_reward": True,
    "clip_observation": 0.5,
    "clip_reward": 0.1,
    "total_frames": 10_000,
    "hidden": (16,),
    "activation": "silu",
    "layer_norm": True,
    "initialization": "xavier",
    "observation_scale": (0.5, 1.0, 0.2, 0.5),
    "optimizer": "adamw",
    "amsgrad": True,
    "lr": 5e-3,
    "lr_schedule": "cosine",
    "lr_factor": 0.1,
    "lr_every": 32,
    "adam_eps": 1e-2,
    "rollout_steps": 12,
    "gamma": 0.5,
    "max_grad_norm": 0.01,
}
POLICY = {"state_dependent_std": True, "initial_std": 0.5, "recurrent": "gru", "recurrent_size": 7}
VALUE = {"value_kind": "smooth_l1", "value_coefficient": 2.0, "entropy_coefficient": 0.1}
CRITIC = {**VALUE, "lmbda": 0.5, "normalize_advantage": False, "shared_trunk": True}
CLIP = {"clip": 0.01, "value_clip": 0.01, "target_kl": 1e-6}
PPO = {**SHARED, **POLICY, **CRITIC, "minibatch_size": 16, "epochs": 3, **CLIP}
A2C = {**SHARED, **POLICY, **CRITIC}
REINFORCE = {**SHARED, **POLICY, **VALUE, "baseline": True, "normalize": "episode", "update_each_episode": True}
EPSILON = {
    "epsilon_schedule": "harmonic",
    "epsilon_start": 0.4,
    "epsilon_end": 0.9,
    "epsilon_frames": 100,
    "epsilon_factor": 0.3,
}
Q_NETWORK = {
    **SHARED,
    **EPSILON,
    "layer_norm": False,
    "replay": False,
    "minibatch_size": 16,
    "updates": 3,
    "buffer_size": 60,
    "warmup_frames": 20,
    "n_steps": 1,
    "double": False,
    "dueling": True,
    "target_network": False,
    "tau": 0.9,
    "target_every": 3,
    "max_grad_value": 1e-4,
}
DQN = {**Q_NETWORK, "kind": "mse"}
QR_DQN = {**Q_NETWORK, "quantiles": 3, "kappa": 0.01}
BOX = {
    **SHARED,
    "env_id": "MountainCarContinuous-v0",
    "layer_norm": True,
    "observation_scale": (0.5, 0.1, 2.0),
    "minibatch_size": 16,
    "updates": 3,
    "buffer_size": 60,
    "warmup_frames": 20,
    "random_warmup": False,
    "n_steps": 2,
    "tau": 0.9,
}
for refused in ("normalize_observation", "normalize_reward", "clip_observation", "clip_reward"):
    del BOX[refused]
SAC = {**BOX, "alpha": 0.2, "learn_alpha": False, "target_entropy": -3.0}
NOISE = {"noise_std": 0.5, "noise_steps": 4.0}
TD3 = {**BOX, **NOISE, "policy_delay": 1, "target_noise": 0.0, "target_noise_clip": 0.01}
TABLE = {
    **ENVIRONMENT,
    **SHAPING,
    "rollout_steps": 12,
    "step_size": 0.3,
    "bins": 3,
    "bin_low": (-1.0, -1.0, -0.1, -1.0),
    "bin_high": (1.0, 1.0, 0.1, 1.0),
}
VALUES = {**TABLE, **EPSILON, "gamma": 0.5}
PREFERENCES = {**TABLE, "beta": 3.0}
FIELDS = {
    ppo: PPO,
    a2c: A2C,
    reinforce: REINFORCE,
    dqn: DQN,
    qr_dqn: QR_DQN,
    sac: SAC,
    td3: TD3,
    q_learning: VALUES,
    sarsa: VALUES,
    policy_gradient: PREFERENCES,
}
# fields that show only beside others
BESIDE = {
    "target_network": {"double": False},
    # the two networks must differ in which action is best
    "double": {"target_every": 9, "lr": 0.1},
    "replay": {"n_steps": 1},
    "epsilon_factor": {"epsilon_schedule": "geometric"},
    "epsilon_frames": {"epsilon_schedule": "linear"},
    "amsgrad": {"lr": 0.1},
    "lr_factor": {"lr_schedule": "steps", "lr_every": 32},
    "lr_every": {"lr_schedule": "steps"},
    "shaping_steps": {"reward_shaping": "outcome"},
    "normalize_observation": {"replay": False, "n_steps": 1},
    "normalize_reward": {"replay": False, "n_steps": 1},
    "clip_observation": {"normalize_observation": True, "replay": False},
    "clip_reward": {"normalize_reward": True, "replay": False},
    "initial_std": {"env_id": "Pendulum-v1", "max_episode_steps": 10},
    "state_dependent_std": {"env_id": "Pendulum-v1", "max_episode_steps": 10},
    "recurrent_size": {"recurrent": "lstm"},
    "value_kind": {"baseline": True},
    "value_coefficient": {"baseline": True},
    "total_frames": {"lr_schedule": "linear"},
    "noise_std": {"random_warmup": False},
    "noise_steps": {"random_warmup": False},
    "target_entropy": {"learn_alpha": True},
}
SMALL = {"num_envs": 4, "rollout_steps": 8, "total_frames": 1000}
SHORT = {"env_id": "Pendulum-v1", "max_episode_steps": 10, "hidden": (32,), "minibatch_size": 32, "updates": 2}
SHORT |= {"warmup_frames": 50}
BINS = {
    "env_id": "CartPole-v1",
    "num_envs": 4,
    "bins": 4,
    "bin_low": (-2.4, -3.0, -0.418, -2.0),
    "bin_high": (2.4, 3.0, 0.418, 2.0),
    "rollout_steps": 8,
}
BASE = {
    ppo: {**SMALL, "minibatch_size": 32, "epochs": 2},
    a2c: SMALL,
    reinforce: {**SMALL, "max_episode_steps": 20},
    dqn: {**SMALL, "minibatch_size": 32, "updates": 2, "warmup_frames": 50},
    qr_dqn: {**SMALL, "minibatch_size": 32, "updates": 2, "warmup_frames": 50},
    sac: {**SMALL, **SHORT},
    td3: {**SMALL, **SHORT},
    q_learning: BINS,
    sarsa: BINS,
    policy_gradient: BINS,
}
# the bins of BASE fit no other environment: tests/pipelines/algorithms/test_tabular.py has some
CASES = [
    (module, name, value)
    for module, fields in FIELDS.items()
    for name, value in fields.items()
    if (name, BASE[module]) != ("env_id", BINS)
]


def trace(module, batches=6, **settings):
    """All that is collected and learned in a few batches, in one list."""
    config = module.Config(**{**BASE[module], **settings})
    pipeline = module.build(config)
    seen = []
    # SAC and TD3 draw from the global generator when they learn
    torch.manual_seed(0)
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
    ("module", "name", "value"), CASES, ids=[f"{case[0].__name__.split('.')[-1]}-{case[1]}" for case in CASES]
)
def test_every_field_changes_the_run(module, name, value, traces):
    known = {field.name for field in dataclasses.fields(module.Config)}
    beside = {field: setting for field, setting in BESIDE.get(name, {}).items() if field in known}
    key = (module, *beside.items())
    if key not in traces:
        traces[key] = trace(module, **beside)
    assert trace(module, **{**beside, name: value}) != traces[key]


def test_no_algorithm_is_forgotten_here():
    assert {module.__name__.split(".")[-1] for module in FIELDS} == {recipe.algorithm for recipe in RECIPES.values()}


@pytest.mark.parametrize("module", FIELDS)
def test_no_field_is_forgotten_here(module):
    tried = {name for tested, name, _ in CASES if tested is module}
    refused = {f"{verb}_{what}" for verb in ("normalize", "clip") for what in ("observation", "reward")}
    loop = LOOP | ({"total_frames", "env_id", "stop_at_change", *refused} if BASE[module] is BINS else set())
    if not issubclass(module.Config, OptimizerConfig):
        loop = loop - {"compile", "cuda_graphs"}
    if issubclass(module.Config, LivesConfig):
        # which CartPole has none of: tests/pipelines/algorithms/test_learning_atari.py
        loop = loop | {"end_at_life_loss"}
    if module not in (dqn, qr_dqn):
        loop = loop - {"replay_storage"}
    if issubclass(module.Config, ContinuousConfig):
        # refused, because what is stored would stay normalised
        loop = loop | {f"{verb}_{what}" for verb in ("normalize", "clip") for what in ("observation", "reward")}
    assert tried | loop == {field.name for field in dataclasses.fields(module.Config)}


def test_gamma_and_lambda_are_not_mixed_up():
    # without a future, lambda has nothing to weigh
    assert trace(ppo, gamma=0.0, lmbda=0.1) == trace(ppo, gamma=0.0, lmbda=0.9)
    assert trace(ppo, gamma=0.9, lmbda=0.0) != trace(ppo, gamma=0.1, lmbda=0.0)


@pytest.mark.parametrize("name", ["value", "entropy"])
def test_coefficients_weigh_their_own_terms(name):
    scalars = trace(ppo, batches=1, **{"entropy_coefficient": 0.1, f"{name}_coefficient": 0.0})[0]
    silent = {key for key, value in scalars.items() if key.startswith("loss_") and value == 0.0}
    assert silent == {f"loss_{name}"}


def test_the_learning_rate_falls_in_steps():
    scalars = trace(a2c, lr=1.0, lr_schedule="steps", lr_factor=0.5, lr_every=64)[::2]
    assert [each["learning_rate"] for each in scalars] == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]


@pytest.mark.parametrize("module", [ppo, a2c, reinforce, dqn, qr_dqn, sac, td3])
def test_the_learning_rate_of_each_batch_is_logged(module):
    rates = [each["learning_rate"] for each in trace(module, lr_schedule="linear", lr=0.5, total_frames=192)[::2]]
    assert rates[0] == 0.5
    assert sorted(rates, reverse=True) == rates
    assert 0.0 < rates[-1] < 0.5


@pytest.mark.parametrize(
    ("module", "changes", "expected"),
    [
        (dqn, {}, [0.6, 0.6, 0.6, 0.4, 0.2]),
        (sac, {}, [0.6, 0.6, 0.6, 0.4, 0.2]),
        # without replay there is no warm-up
        (dqn, {"replay": False}, [0.6, 0.48, 0.36, 0.24, 0.12]),
    ],
)
def test_the_learning_rate_falls_from_the_first_update_to_the_last(module, changes, expected):
    changes |= {"total_frames": 160, "warmup_frames": 80, "lr_schedule": "linear", "lr": 0.6}
    scalars = trace(module, **changes)[::2]
    assert [each["learning_rate"] for each in scalars] == pytest.approx(expected)


def test_optimizers_are_what_they_are_called():
    for name, kind in (("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)):
        pipeline = ppo.build(ppo.Config(optimizer=name, adam_eps=0.125, lr=0.25, amsgrad=True))
        optimizer = pipeline.state["optimizer"]
        assert type(optimizer) is kind
        group = optimizer.param_groups[0]
        assert (group["eps"], group["lr"], group["amsgrad"]) == (0.125, 0.25, True)
        pipeline.close()
