"""The Stable-Baselines3 baseline: its own classes, with the settings of rl-zoo3 for CartPole-v1.

Needs the extra `rlpipe[benchmark]`, which is imported when a function here is called.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictModuleBase
from torch import nn

from rlpipe.errors import ConfigError

ZOO: Mapping[str, Mapping[str, Any]] = {
    "dqn": {
        "n_timesteps": 50_000,
        "learning_rate": 2.3e-3,
        "batch_size": 64,
        "buffer_size": 100_000,
        "learning_starts": 1_000,
        "gamma": 0.99,
        "target_update_interval": 10,
        "train_freq": 256,
        "gradient_steps": 128,
        "exploration_fraction": 0.16,
        "exploration_final_eps": 0.04,
        "policy_kwargs": {"net_arch": [256, 256]},
    },
    "a2c": {"n_timesteps": 500_000, "n_envs": 8, "ent_coef": 0.0},
    "ppo": {
        "n_timesteps": 100_000,
        "n_envs": 8,
        "n_steps": 32,
        "batch_size": 256,
        "gae_lambda": 0.8,
        "gamma": 0.98,
        "n_epochs": 20,
        "ent_coef": 0.0,
        "learning_rate": "lin_0.001",
        "clip_range": "lin_0.2",
    },
}
"""The entries for CartPole-v1 of hyperparams/{dqn,a2c,ppo}.yml in github.com/DLR-RM/rl-baselines3-zoo, unchanged.

`n_timesteps` is a number of frames, over which `lin_x` falls from x to 0.
"""

Check = Callable[[TensorDictModuleBase, int], bool]
"""Called with the policy and the number of frames after every step of the environments; `True` ends training."""


def sb3_rollout(
    env_id: str, num_envs: int, *, steps: int, seed: int
) -> tuple[Callable[[], object], Callable[[], None]]:
    """Stable-Baselines3's collection of one PPO rollout, with its own policy and critic of two layers of 64.

    It includes the values of all states and the advantages. `num_envs * steps`, the number of frames in a rollout, is
    at least 2.

    Returns:
        A function that collects a rollout, and one that closes the environments.

    Raises:
        ConfigError: Stable-Baselines3 is not installed.
    """
    sb3, make_vec_env = _import()
    env = make_vec_env(env_id, num_envs, seed=seed)
    model = sb3.PPO("MlpPolicy", env, n_steps=steps, batch_size=num_envs * steps, seed=seed, device="cpu")
    _, callback = model._setup_learn(steps)

    def collect() -> object:
        return model.collect_rollouts(env, callback, model.rollout_buffer, steps)

    return collect, env.close


def sb3_ppo_update(
    minibatch: TensorDictBase,
    actor: nn.Sequential,
    critic: nn.Sequential,
    *,
    config: Any,
    updates: int,
) -> tuple[Callable[[], object], nn.Module]:
    """Stable-Baselines3's `PPO.train` on one given minibatch, with its default optimiser.

    Args:
        minibatch: `observation`, `action`, `action_log_prob`, `advantage`, `value_target`, `[B]`.
        actor: the 4-64-64-2 network with the initial weights.
        critic: the 4-64-64-1 network with the initial weights.
        config: of PPO, for the coefficients and the learning rate.
        updates: number of gradient steps in one call, all on the same minibatch.

    Returns:
        A function that makes the gradient steps, and the module of policy and critic that it trains.

    Raises:
        ConfigError: Stable-Baselines3 is not installed.
    """
    sb3, make_vec_env = _import()
    model = sb3.PPO(
        "MlpPolicy",
        make_vec_env("CartPole-v1", 1),
        n_epochs=updates,
        normalize_advantage=config.normalize_advantage,
        **ppo_settings(config),
    )
    _copy_weights(model.policy, actor, critic)
    model.rollout_buffer = _drawn(minibatch)
    model._setup_learn(1)
    return model.train, model.policy


def sb3_replay_updates(
    algorithm: str, env_id: str, transitions: TensorDictBase, *, minibatch: int, updates: int, seed: int
) -> Callable[[], object]:
    """Stable-Baselines3's `train` of SAC or TD3 with two layers of 256, which draws each minibatch from replay.

    Args:
        algorithm: `sac` or `td3`.
        env_id: an environment whose spaces are those of the transitions.
        transitions: what the replay buffer holds, `[N]`.
        minibatch: transitions of a gradient step.
        updates: gradient steps in one call.
        seed: of the networks.

    Raises:
        ConfigError: Stable-Baselines3 is not installed.
    """
    sb3, make_vec_env = _import()
    size, after = len(transitions), transitions["next"]
    model = getattr(sb3, algorithm.upper())(
        "MlpPolicy",
        make_vec_env(env_id, 1),
        buffer_size=size,
        batch_size=minibatch,
        policy_kwargs={"net_arch": [256, 256]},
        seed=seed,
        device="cpu",
    )
    model._setup_learn(1)
    buffer, low, high = model.replay_buffer, model.action_space.low, model.action_space.high
    buffer.observations[:, 0], buffer.next_observations[:, 0] = transitions["observation"], after["observation"]
    # it stores actions between -1 and 1
    buffer.actions[:, 0] = 2 * (transitions["action"].numpy() - low) / (high - low) - 1
    buffer.rewards[:], buffer.dones[:], buffer.full = after["reward"], after["terminated"], True
    return lambda: model.train(updates, minibatch)


def ppo_settings(config: Any) -> dict[str, Any]:
    """The arguments of Stable-Baselines3's PPO that follow from a PPO config."""
    return {
        "learning_rate": config.lr,
        "clip_range": config.clip,
        "ent_coef": config.entropy_coefficient,
        "vf_coef": config.value_coefficient,
        "max_grad_norm": config.max_grad_norm or math.inf,
        "device": "cpu",
    }


def build_sb3(
    algorithm: str, seed: int, env_id: str = "CartPole-v1"
) -> tuple[Callable[[Check], None], Callable[[], None]]:
    """Build a model of `dqn`, `a2c` or `ppo` and its environments with rl-zoo3's settings for CartPole-v1.

    Returns:
        A function that trains until its `Check` returns True or the settings' number of frames is reached, and one
        that closes the environments.

    Raises:
        ConfigError: Stable-Baselines3 is not installed.
    """
    sb3, make_vec_env = _import()
    settings = {name: _scheduled(value) for name, value in ZOO[algorithm].items()}
    frames, num_envs = settings.pop("n_timesteps"), settings.pop("n_envs", 1)
    env = make_vec_env(env_id, num_envs, seed=seed)
    model = getattr(sb3, algorithm.upper())("MlpPolicy", env, seed=seed, device="cpu", **settings)
    policy = sb3_policy(model.policy)

    def train(check: Check) -> None:
        model.learn(frames, callback=lambda local, _: not check(policy, local["self"].num_timesteps))

    return train, env.close


def sb3_policy(policy: Any) -> TensorDictModule:
    """The greedy actions of a Stable-Baselines3 policy, as a module for `evaluate`."""
    return TensorDictModule(
        lambda observation: policy._predict(observation, deterministic=True),
        in_keys=["observation"],
        out_keys=["action"],
    )


def _import() -> tuple[Any, Callable[..., Any]]:
    try:
        sb3 = importlib.import_module("stable_baselines3")
        return sb3, importlib.import_module("stable_baselines3.common.env_util").make_vec_env
    except ImportError as error:
        raise ConfigError(
            'Stable-Baselines3 is not installed; install it with pip install "rlpipe[benchmark]", or use '
            "--against torchrl"
        ) from error


def _scheduled(value: Any) -> Any:
    """Replace rl-zoo3's `lin_x` by the function that Stable-Baselines3 takes."""
    if not (isinstance(value, str) and value.startswith("lin_")):
        return value
    initial = float(value.removeprefix("lin_"))
    return lambda remaining: remaining * initial


def _copy_weights(policy: Any, actor: nn.Sequential, critic: nn.Sequential) -> None:
    """Copy the weights into the policy's two-layer networks and their heads, in the order of the layers."""
    extractor = policy.mlp_extractor
    with torch.no_grad():
        for ours, body, head in (
            (actor, extractor.policy_net, policy.action_net),
            (critic, extractor.value_net, policy.value_net),
        ):
            theirs = [*body.parameters(), *head.parameters()]
            for target, source in zip(theirs, ours.parameters(), strict=True):
                target.copy_(source)


def _drawn(minibatch: TensorDictBase) -> SimpleNamespace:
    """A substitute for a rollout buffer: it yields the minibatch as it is, so that drawing takes no time."""
    samples = SimpleNamespace(
        observations=minibatch["observation"],
        actions=minibatch["action"],
        old_log_prob=minibatch["action_log_prob"],
        advantages=minibatch["advantage"].squeeze(-1),
        returns=minibatch["value_target"].squeeze(-1),
    )
    returns = samples.returns.numpy()
    return SimpleNamespace(get=lambda _: [samples], values=returns, returns=returns)
