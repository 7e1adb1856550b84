"""Configs are valid whenever they exist; JSON brings them back."""

import dataclasses
import json

import pytest

from rlpipe.errors import ConfigError
from rlpipe.pipelines import dqn, ppo
from rlpipe.pipelines.config import config_from_json
from rlpipe.pipelines.recipes import RECIPES, builder, config_class, find_recipe


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
        ("env_id", 3, "env_id is 3; expected text"),
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
        ({"warmup_frames": 200, "total_frames": 100}, "warmup_frames is 200; allowed is at most 100, the total_frames"),
        ({"n_steps": 5, "rollout_steps": 4}, "n_steps is 5; allowed is at most 4, the rollout_steps"),
        ({"double": True, "target_network": False}, "double is True, which needs target_network to be True"),
    ],
)
def test_dqn_fields_fit_each_other(values, message):
    with pytest.raises(ConfigError, match=message):
        dqn.Config(**values)


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


def test_unknown_names_get_the_nearest():
    with pytest.raises(ConfigError, match="no recipe is called 'dqn/target'; did you mean dqn/target-network"):
        find_recipe("dqn/target")
    with pytest.raises(ConfigError, match="there are ppo, dqn, a2c, reinforce, dqn/online"):
        find_recipe("zzzzzz")
    with pytest.raises(ConfigError, match="no algorithm is called 'os'"):
        builder("os")
