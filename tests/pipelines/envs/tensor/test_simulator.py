"""Environments of a simulator: resets in the same step, counters, seeds, state."""

import pytest
import torch

from rlpipe.errors import ConfigError
from rlpipe.pipelines.envs import EnvConfig, make_env
from rlpipe.pipelines.envs.tensor.simulator import choose

CARTPOLE = "rlpipe/TorchCartPole-v0"


def make(num_envs=4, seed=0, env_id=CARTPOLE, **options):
    return make_env(EnvConfig(env_id, num_envs, **options), seed=seed).base_env


def right(env):
    return torch.ones(env.batch_size, dtype=torch.int64)


def test_an_environment_that_ends_begins_again_in_the_same_step():
    env = make()
    env.restart()
    for _ in range(40):
        before = env.root
        after = env.advance(right(env))
        done = after["done"]
        assert torch.equal(done, after["terminated"] | after["truncated"])
        assert torch.equal(after["step_count"], before["step_count"] + 1)
        assert torch.equal(after["episode_reward"], before["episode_reward"] + after["reward"])
        assert torch.equal(env.root["observation"][~done], after["observation"][~done])
        assert (env.root["observation"][done].abs() <= 0.05).all()
        assert (after["observation"][done][:, 2].abs() > 0.2).all()
        assert (env.root["step_count"][done] == 0).all()
        assert (env.root["episode_reward"][done] == 0).all()


def test_no_first_state_is_used_twice():
    env = make(num_envs=32)
    env.restart()
    firsts = [env.root["observation"]]
    for _ in range(60):
        done = env.advance(right(env))["done"]
        firsts.append(env.root["observation"][done])
    seen = torch.cat(firsts)
    assert len(seen) > 150
    assert len(seen.unique(dim=0)) == len(seen)


@pytest.mark.parametrize("limit", [1, 3])
def test_episodes_are_truncated_at_the_limit(limit):
    env = make(max_episode_steps=limit)
    env.restart()
    starts = []
    for step in range(1, 3 * limit + 1):
        after = env.advance(right(env))
        assert not after["terminated"].any()
        assert after["truncated"].all() == after["done"].all() == (step % limit == 0)
        if after["done"].all():
            starts.append(env.root["observation"])
    assert len(torch.cat(starts).unique(dim=0)) == len(starts) * 4


def test_what_is_returned_is_not_written_into_later():
    env = make(env_id="rlpipe/TorchPendulum-v0", max_episode_steps=3)
    env.restart()
    kept = []
    for _ in range(8):
        root = dict(env.root)
        after = env.advance(torch.full((4, 1), 0.5))
        kept += [(each, each.clone()) for each in (*root.values(), *after.values())]
    assert all(torch.equal(each, copy) for each, copy in kept)


def test_a_seed_gives_the_same_episodes_and_another_gives_others():
    one, same, other = (make(seed=seed) for seed in (1, 1, 2))
    for env in (one, same, other):
        env.restart()
        for _ in range(20):
            env.advance(right(env))
    assert torch.equal(one.root["observation"], same.root["observation"])
    assert not torch.equal(one.root["observation"], other.root["observation"])


def test_without_a_seed_no_two_are_the_same():
    one, other = make(seed=None), make(seed=None)
    assert not torch.equal(one.restart()["observation"], other.restart()["observation"])
    assert not torch.equal(one.restart()["observation"], one.restart()["observation"])


def test_only_those_of_the_mask_begin_again():
    env = make()
    env.restart()
    env.advance(right(env))
    before = dict(env.root)
    mask = torch.tensor([True, False, True, False])
    root = env.restart(mask)
    assert torch.equal(root["observation"][~mask], before["observation"][~mask])
    assert (root["observation"][mask] != before["observation"][mask]).any()
    assert root["step_count"].tolist() == [0, 1, 0, 1]
    assert root["episode_reward"].tolist() == [0, 1, 0, 1]


def test_it_continues_from_its_state():
    env, other = make(), make(seed=9)
    for each in (env, other):
        each.restart()
    for _ in range(13):
        env.advance(right(env))
    other.set_state({**env.get_state(), "root": {key: each.clone() for key, each in env.root.items()}})
    for _ in range(25):
        one, two = env.advance(right(env)), other.advance(right(other))
        assert all(torch.equal(one[key], two[key]) for key in one)
        assert torch.equal(env.root["observation"], other.root["observation"])


def test_a_state_of_another_size_is_refused():
    env, other = make(), make(num_envs=3)
    env.restart()
    other.restart()
    with pytest.raises(ValueError, match="observation"):
        env.set_state(other.get_state())


@pytest.mark.parametrize("action", [torch.zeros(3, dtype=torch.int64), torch.zeros(4, 1, dtype=torch.int64)])
def test_an_action_of_another_shape_is_refused(action):
    env = make()
    env.restart()
    with pytest.raises(ConfigError, match=r"^the policy's action has shape \[.*\], expected \[4\]: one of Discrete"):
        env.advance(action)


def test_it_stays_on_its_device():
    env = make()
    assert env.to("cpu") is env
    with pytest.raises(ConfigError, match=r"are on cpu, and are wanted on cuda; make them there: make_env\(config"):
        env.to("cuda")


@pytest.mark.parametrize("features", [2, 4])
def test_rows_are_chosen_whole(features):
    one, other, mask = torch.randn(9, features), torch.randn(9, features), torch.arange(9) % 3 == 0
    one[0, 0], other[1, 1] = torch.nan, torch.inf
    expected = torch.where(mask.unsqueeze(-1), one, other)
    assert torch.equal(choose(mask, one, other).view(torch.int32), expected.view(torch.int32))
