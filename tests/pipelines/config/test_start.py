"""Which run and which parts a new run may start from, before anything is built."""

import pytest

from rlpipe import run_recipe
from rlpipe.errors import CheckpointError, ConfigError
from rlpipe.pipelines.algorithms.recipes import config_class
from rlpipe.pipelines.config.start import PARTS, find_start

SHORT = {"num_envs": 2, "rollout_steps": 8, "total_frames": 16, "eval_every": None, "final_eval_episodes": 1}
SHORT |= {"max_episode_steps": 8}
PPO = {**SHORT, "minibatch_size": 8, "epochs": 1}


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start") / "first"
    run_recipe("ppo", folder=folder, **PPO)
    return folder


def find(path, take=(), algorithm="ppo", **changes):
    config = config_class(algorithm)(**{**(PPO if algorithm == "ppo" else SHORT), **changes})
    return find_start(path, take, config, recipe=algorithm, algorithm=algorithm)


def refused(path, *words, take=(), algorithm="ppo", **changes):
    with pytest.raises(ConfigError) as error:
        find(path, take, algorithm, **changes)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_nothing_to_start_from():
    assert find(None) is None
    refused(None, "take is policy critic, which needs start-from", take=("critic", "policy"))


def test_all_parts_unless_some_are_named(first):
    start = find(first)
    assert start.checkpoint == first.resolve() / "checkpoints" / "frames-000000000016"
    assert [start.takes(part) for part in PARTS] == [True, True, True]
    start = find(f"{first}@best", ["statistics", "policy", "policy"])
    assert start.checkpoint.name == "best-000000000016"
    assert start.take == start.noted == ("policy", "statistics")
    assert not start.takes("critic")
    assert find(first, PARTS).noted == ()


def test_a_part_of_another_name(first):
    refused(first, "take is 'polcy'; did you mean policy?", take=["policy", "polcy"])
    refused(first, "take is 'weights'; there are policy, critic, statistics", take="weights")


def test_no_run(tmp_path):
    with pytest.raises(CheckpointError, match=r"start-from .*nowhere cannot be used: .* is no run"):
        find(tmp_path / "nowhere")


def test_another_algorithm_only_by_parts(first):
    same = {"hidden": (128,), "activation": "relu"}
    refused(first, "is a run of ppo, and the recipe a2c trains a2c; --take policy", algorithm="a2c", **same)
    assert find(first, ["policy"], "a2c", **same).algorithm == "ppo"
    told = ["hidden is [64, 64], and", "was trained with [128]"]
    refused(first, *told, take=["policy"], algorithm="a2c", activation="relu")


@pytest.mark.parametrize(
    ("field", "value", "parts"),
    [
        ("hidden", (8,), ("policy", "critic")),
        ("activation", "tanh", ("policy", "critic")),
        ("layer_norm", True, ("policy", "critic")),
        ("observation_scale", (1.0, 1.0, 1.0, 1.0), ("policy", "critic")),
        ("normalize_observation", True, ("policy", "critic")),
        ("state_dependent_std", True, ("policy",)),
        ("shared_trunk", True, ("critic",)),
        ("normalize_reward", True, ("critic",)),
        ("env_id", "Acrobot-v1", ()),
        ("gamma", 0.5, ()),
        ("initialization", "default", ()),
        ("frame_stack", 2, ()),
        ("eval_env_id", "CartPole-v0", ()),
    ],
)
def test_a_field_matters_for_the_parts_that_depend_on_it(first, field, value, parts):
    for part in PARTS:
        if part in parts:
            refused(first, f"{field} is ", "they must be the same", take=[part], **{field: value})
        elif (field, part) != ("shared_trunk", "critic"):
            assert find(first, [part], **{field: value}).take == (part,)


def test_the_critic_alone_of_a_shared_trunk(tmp_path):
    run_recipe("ppo", folder=tmp_path / "run", **PPO, shared_trunk=True)
    refused(tmp_path / "run", "layers belong to the policy; take policy as well", take=["critic"], shared_trunk=True)
    assert find(tmp_path / "run", ["critic", "policy"], shared_trunk=True).take == ("policy", "critic")
