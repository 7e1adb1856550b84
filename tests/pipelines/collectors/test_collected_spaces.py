"""Batches of every kind of space: the lean collector's equal the stock one's, and `VectorEnv` single environments."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from kinds import ACTIONS, MASKS, OBSERVATIONS, STEPS, acts, masked, reads
from torchrl.collectors import Collector

from rlpipe.pipelines.algorithms import ppo
from rlpipe.pipelines.build.networks import make_actor, make_trunk
from rlpipe.pipelines.collectors.collector import SyncDataCollector
from rlpipe.pipelines.envs import EnvConfig, VectorEnv, make_env
from rlpipe.pipelines.envs.entries import leaves_of

FIRST = {kind: next(iter(leaves_of(space, "observation"))) for kind, space in OBSERVATIONS.items()}
READ = [reads(kind, key) for kind, key in FIRST.items()]
ENVS = [*READ, *map(acts, ACTIONS), *map(masked, MASKS)]


def make_policy(env):
    torch.manual_seed(0)
    config = ppo.Config(hidden=(8,))
    return make_actor(config, env, make_trunk(config, env), torch.Generator().manual_seed(1))


def collected(kind, env_id, num_envs=3, steps=13):
    env = make_env(EnvConfig(env_id, num_envs), seed=4)
    frames = {"frames_per_batch": steps * num_envs, "total_frames": 2 * steps * num_envs}
    return list(kind(env, make_policy(env), auto_register_policy_transforms=False, **frames))


@pytest.mark.parametrize("env_id", ENVS)
def test_lean_batches_equal_stock_ones_bit_for_bit(env_id, identical, monkeypatch):
    stock = collected(Collector, env_id)
    monkeypatch.setattr(Collector, "rollout", lambda _: pytest.fail("the stock rollout was taken"))
    for ours, theirs in zip(collected(SyncDataCollector, env_id), stock, strict=True):
        identical(ours, theirs)


@pytest.mark.parametrize("env_id", [reads("nested", "position"), acts("nested"), masked("each")])
def test_workers_give_what_one_process_gives(env_id, identical):
    batches = []
    for backend in ("sync", "async"):
        env = make_env(EnvConfig(env_id, 2, backend), seed=4)
        policy = make_policy(env)
        batches += SyncDataCollector(env, policy, frames_per_batch=40, total_frames=40)
        env.close(raise_if_closed=False)
    identical(*batches)


@pytest.mark.parametrize("env_id", ENVS)
def test_each_environment_is_stepped_as_a_single_one(env_id):
    env = make_env(EnvConfig(env_id, 2), seed=11)
    singles = [gym.make(env_id, disable_env_checker=True) for _ in range(2)]
    leaves = leaves_of(singles[0].observation_space, "observation")
    actions = leaves_of(singles[0].action_space, "action")
    seeds = [int(word) for word in np.random.SeedSequence(11).generate_state(2)]
    seen = [single.reset(seed=seed)[0] for single, seed in zip(singles, seeds, strict=True)]
    td = env.reset()
    for step in range(2 * STEPS + 3):
        _check_seen(td, seen, leaves)
        env.rand_action(td)
        stepped, td = env.step_and_maybe_reset(td)
        taken = env.base_env.cast_action(env.base_env.actions_in(stepped))
        for index, single in enumerate(singles):
            one = _row(taken, index)
            assert single.action_space.contains(one) or set(actions) == {"action"}
            seen[index], reward, _, truncated, _ = single.step(one)
            assert stepped["next", "reward"][index].item() == pytest.approx(reward)
            assert stepped["next", "done"][index].item() is truncated is (step % STEPS == STEPS - 1)
        _check_seen(stepped["next"], seen, leaves)
        if truncated:
            seen = [single.reset()[0] for single in singles]


def _check_seen(td, seen, leaves):
    """Each entry of `td` is what the single environments returned, counted from 0."""
    masks = [key for key in leaves if key == "action_mask" or key[0] == "action_mask"]
    for key, leaf in leaves.items():
        if key not in masks:
            for index, each in enumerate(seen):
                np.testing.assert_array_equal(td[key][index].numpy(), leaf.get(each) - getattr(leaf.space, "start", 0))
    if masks:
        flat = [np.concatenate([np.ravel(leaves[key].get(each)) for key in masks]) for each in seen]
        np.testing.assert_array_equal(td["action_mask"].numpy(), np.array(flat, bool))


def _row(nested, index):
    """One environment's part of a batch of actions."""
    if isinstance(nested, dict):
        return {key: _row(each, index) for key, each in nested.items()}
    return tuple(_row(each, index) for each in nested) if isinstance(nested, tuple) else nested[index]


@pytest.mark.parametrize("env_id", [reads("nested", "position"), acts("nested"), masked("each")])
def test_gymnasiums_own_vector_environment_takes_them_too(env_id, identical):
    makers = [lambda: gym.make(env_id, disable_env_checker=True)] * 2
    stock = gym.vector.SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)
    envs = (VectorEnv(stock, seed=3), make_env(EnvConfig(env_id, 2), seed=3))
    identical(*[env.rollout(11, make_policy(env), break_when_any_done=False) for env in envs])
