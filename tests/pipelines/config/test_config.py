"""Configs are valid whenever they exist; JSON brings them back."""

import dataclasses
import json

import numpy as np
import pytest

from rlpipe.errors import ConfigError
from rlpipe.pipelines.algorithms import dqn, ppo
from rlpipe.pipelines.algorithms.recipes import RECIPES, builder, config_class, find_recipe
from rlpipe.pipelines.config.json_form import config_from_json


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("num_envs", 0, "num_envs is 0; allowed is 1 or more"),
        ("num_envs", 2.5, "num_envs is 2.5; expected a whole number"),
        ("num_envs", True, "num_envs is True; expected a whole number"),
        ("total_frames", -5, "total_frames is -5; allowed is 1 or more"),
        ("eval_every", 0, "eval_every is 0; allowed is 1 or more"),
        ("lr", 0.0, "lr is 0.0; allowed is more than 0"),
        ("lr", float("nan"), "lr is nan; expected a finite number"),
        ("lr", "fast", "lr is 'fast'; expected a finite number"),
        ("gamma", 1.5, "gamma is 1.5; allowed is 0 or more and at most 1"),
        ("stop_at_return", float("inf"), "stop_at_return is inf; expected a finite number or none"),
        ("device", "tpu", "device is 'tpu'; allowed are cpu, cuda"),
        ("hidden", (64, 0), "hidden is 0; allowed is 1 or more"),
        ("hidden", (), "hidden is empty"),
        ("threads", 10**9, "threads is 1000000000; allowed is 1 or more and at most 1024"),
        ("hidden", 64, "hidden is 64; expected a tuple, each a whole number"),
        ("normalize_advantage", 1, "normalize_advantage is 1; expected true or false"),
        ("env_id", 3, "env_id is 3; expected an id of Gymnasium"),
        ("lr", 10**400, "lr is 1000.*401 characters.; expected a finite number"),
        ("lr", 1e39, "lr is 1e.39; allowed is more than 0 and at most 1e.38"),
        ("seed", 2**63, "seed is 9223372036854775808; allowed is 0 or more and at most 9223372036854775807"),
        ("hidden", (8,) * 101, "hidden has 101 numbers; allowed is at most 100"),
        ("hidden", (20_000,), "hidden is 20000; allowed is 1 or more and at most 16384"),
        ("activation", np.ones(2), "activation is array.*; allowed are relu, tanh, silu"),
        ("rollout_steps", 1_000_001, "rollout_steps is 1000001; allowed is 1 or more and at most 1000000"),
        ("minibatch_size", 1025, "minibatch_size is 1025; allowed is at most 1024, the frames of a batch"),
    ],
)
def test_bad_values_are_named(field, value, message):
    with pytest.raises(ConfigError, match=message):
        ppo.Config(**{field: value})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"minibatch_size": 200, "buffer_size": 100, "warmup_frames": 1}, "minibatch_size is 200; .* at most 100"),
        ({"warmup_frames": 200, "buffer_size": 100, "minibatch_size": 1}, "warmup_frames is 200; .* at most 100"),
        (
            {"num_envs": 40, "rollout_steps": 4, "buffer_size": 128, "warmup_frames": 1, "minibatch_size": 1},
            "buffer_size is 128; allowed is 160 or more",
        ),
        ({"warmup_frames": 200, "total_frames": 100}, "warmup_frames is 200; allowed is at most 100, the total_frames"),
        ({"n_steps": 5, "rollout_steps": 4}, "n_steps is 5; allowed is at most 4, the rollout_steps"),
        ({"double": True, "target_network": False}, "double is True, which needs target_network to be True"),
    ],
)
def test_dqn_fields_fit_each_other(values, message):
    with pytest.raises(ConfigError, match=message):
        dqn.Config(**values)


def test_whole_numbers_become_floats_where_those_are_meant():
    config = ppo.Config(lr=1, observation_scale=(1, 2), max_grad_norm=3, stop_at_return=None)
    assert [type(each) for each in (config.lr, *config.observation_scale, config.max_grad_norm)] == [float] * 4
    assert (config.lr, config.observation_scale, config.max_grad_norm) == (1.0, (1.0, 2.0), 3.0)


def test_numbers_that_python_does_not_write_out():
    with pytest.raises(ConfigError, match="seed is a number of thousands of digits; allowed is 0 or more"):
        ppo.Config(seed=10**5000)


def test_a_batch_has_its_limit():
    with pytest.raises(ConfigError, match="rollout_steps is 10000; allowed is at most 1000 with num_envs 1000000"):
        ppo.Config(num_envs=1_000_000, rollout_steps=10_000)


def test_processes_are_counted():
    with pytest.raises(ConfigError, match="num_envs is 1001; allowed is at most 1000 with backend 'async'"):
        ppo.Config(num_envs=1_001, backend="async")


@pytest.mark.parametrize(
    ("module", "values", "message"),
    [
        (dqn, {"buffer_size": 10**6}, "takes 0.05 GB of memory; there are 0.04 GB; take a smaller --buffer-size$"),
        (ppo, {"rollout_steps": 10**5}, "rollout_steps is 100000 with num_envs 16, a batch of which takes .* GB"),
        (ppo, {"hidden": (4_000, 4_000)}, "hidden has 16,024,000 weights; training them needs 0.26 GB of memory"),
    ],
)
def test_what_is_more_than_the_memory_is_refused_before_it_is_taken(monkeypatch, module, values, message):
    monkeypatch.setattr("rlpipe.pipelines.devices._memory", lambda device: 40e6)
    with pytest.raises(ConfigError, match=message):
        module.build(module.Config(**values))


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_a_config_that_json_brings_back(name):
    config = find_recipe(name).config()
    again = config_from_json(config_class(RECIPES[name].algorithm), json.loads(json.dumps(dataclasses.asdict(config))))
    assert again == config


def test_json_with_wrong_fields_is_refused():
    values = dataclasses.asdict(ppo.Config())
    with pytest.raises(ConfigError, match="the config has an unknown field 'zzz'"):
        config_from_json(ppo.Config, {**values, "zzz": 1})
    values.pop("clip")
    with pytest.raises(ConfigError, match="the config has no field 'clip'"):
        config_from_json(ppo.Config, values)


def test_a_config_of_an_older_version_is_read():
    values = dataclasses.asdict(ppo.Config())
    del values["eval_envs"]
    assert config_from_json(ppo.Config, values) == ppo.Config()


def test_unknown_names_get_the_nearest():
    with pytest.raises(ConfigError, match="no recipe is called 'dqn/target-net'; did you mean dqn/target-network"):
        find_recipe("dqn/target-net")
    with pytest.raises(ConfigError, match="there are ppo, dqn, a2c, reinforce, qr-dqn, sac, td3, dqn/online"):
        find_recipe("zzzzzz")
    with pytest.raises(ConfigError, match="no algorithm is called 'os'"):
        builder("os")
