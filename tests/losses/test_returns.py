"""n-step returns and returns-to-go: golden three-step episodes, and a plain loop."""

import pytest
import torch
from tensordict import TensorDict
from torch import nn, tensor
from torchrl.modules import ValueOperator

from rlpipe.losses import NStep, ReturnToGo
from rlpipe.modules import Critic


def episode(terminated, truncated):
    """An episode of three steps with rewards 1, 2, 4, then the first step of the next, with reward 8."""
    after = {
        "reward": tensor([1.0, 2.0, 4.0, 8.0]),
        "observation": tensor([1.0, 2.0, 3.0, 11.0]),
        "terminated": tensor([False, False, terminated, False]),
        "done": tensor([False, False, terminated or truncated, False]),
    }
    after = {key: value.reshape(1, 4, 1) for key, value in after.items()}
    observation = tensor([0.0, 1.0, 2.0, 10.0]).reshape(1, 4, 1)
    return TensorDict({"observation": observation, "next": TensorDict(after, [1, 4])}, [1, 4])


@pytest.mark.parametrize(
    ("n", "terminated", "truncated", "reward", "observation", "discount"),
    [
        (1, True, False, [1, 2, 4, 8], [1, 2, 3, 11], [0.5, 0.5, 0.0, 0.5]),
        (2, True, False, [2, 4, 4, 8], [2, 3, 3, 11], [0.25, 0.0, 0.0, 0.5]),
        (2, False, True, [2, 4, 4, 8], [2, 3, 3, 11], [0.25, 0.25, 0.5, 0.5]),
        (3, True, False, [3, 4, 4, 8], [3, 3, 3, 11], [0.0, 0.0, 0.0, 0.5]),
        (3, False, True, [3, 4, 4, 8], [3, 3, 3, 11], [0.125, 0.25, 0.5, 0.5]),
        # no episode's end: the batch's end
        (3, False, False, [3, 6, 8, 8], [3, 11, 11, 11], [0.125, 0.125, 0.25, 0.5]),
    ],
)
def test_golden_episode(n, terminated, truncated, reward, observation, discount):
    batch = episode(terminated, truncated)
    before = batch.clone()
    after = NStep(gamma=0.5, n=n)(batch)["next"]
    assert after["reward"].flatten().tolist() == reward
    assert after["observation"].flatten().tolist() == observation
    assert after["discount"].flatten().tolist() == discount
    assert (batch == before).all()
    assert "discount" not in batch["next"].keys()


@pytest.mark.parametrize("n", [1, 2, 5, 20])
def test_equals_a_plain_loop(n):
    generator = torch.Generator().manual_seed(n)
    shape, gamma = (3, 12), 0.9
    reward, observation = torch.randn(2, *shape, 1, generator=generator).unbind(0)
    terminated, truncated = (torch.rand(2, *shape, 1, generator=generator) < 0.15).unbind(0)
    entries = {"reward": reward, "observation": observation, "terminated": terminated, "done": terminated | truncated}
    after = NStep(gamma=gamma, n=n)(TensorDict({"next": TensorDict(entries, shape)}, shape))["next"]
    for row in range(shape[0]):
        for start in range(shape[1]):
            total, step = 0.0, start
            for k in range(n):
                step = start + k
                total += gamma**k * reward[row, step].item()
                if entries["done"][row, step] or step == shape[1] - 1:
                    break
            bootstrap = gamma ** (step - start + 1) * (not terminated[row, step].item())
            assert after["reward"][row, start].item() == pytest.approx(total, abs=1e-5)
            assert after["discount"][row, start].item() == pytest.approx(bootstrap, abs=1e-6)
            assert after["observation"][row, start] == observation[row, step]


def make_critic(slope=10.0):
    """Its value is `slope` times the observation."""
    network = nn.Linear(1, 1)
    nn.init.constant_(network.weight, slope)
    nn.init.zeros_(network.bias)
    return Critic(network)


@pytest.mark.parametrize(("terminated", "truncated"), [(True, False), (False, True)])
def test_return_to_go_of_a_golden_episode(terminated, truncated):
    batch = ReturnToGo(gamma=0.5)(episode(terminated, truncated))
    # 1 + 2 / 2 + 4 / 4, 2 + 4 / 2, 4; and nothing bootstrapped, however the episode ended
    assert batch["value_target"].tolist() == [[[3.0], [4.0], [4.0], [8.0]]]
    assert batch["advantage"].tolist() == batch["value_target"].tolist()
    assert batch["episode"].tolist() == [[[0], [0], [0], [1]]]
    assert batch["episode"].dtype == torch.int64
    assert "state_value" not in batch.keys()


def test_return_to_go_less_a_baseline():
    batch = ReturnToGo(make_critic(), gamma=0.5)(episode(True, False))
    assert batch["value_target"].tolist() == [[[3.0], [4.0], [4.0], [8.0]]]
    assert batch["state_value"].tolist() == [[[0.0], [10.0], [20.0], [100.0]]]
    assert batch["advantage"].tolist() == [[[3.0], [-6.0], [-16.0], [-92.0]]]
    assert not batch["advantage"].requires_grad


def test_return_to_go_accepts_a_stock_critic(identical):
    critic = make_critic()
    stock = ValueOperator(critic.network, in_keys=["observation"])
    ours, theirs = (ReturnToGo(module, gamma=0.5)(episode(True, False)) for module in (critic, stock))
    identical(theirs, ours)


@pytest.mark.parametrize("critic", [None, make_critic()])
def test_return_to_go_writes_its_out_keys_and_reads_its_in_keys(critic):
    module = ReturnToGo(critic, gamma=0.5)
    before = episode(True, False).select(*module.in_keys)
    after = module(before.clone())
    assert set(after.keys()) - set(before.keys()) == set(module.out_keys)
    assert (after.select(*before.keys()) == before).all()


@pytest.mark.parametrize("shape", [(12,), (3, 12), (2, 2, 12)])
def test_return_to_go_equals_a_plain_loop(shape):
    generator = torch.Generator().manual_seed(0)
    reward, observation = torch.randn(2, *shape, 1, generator=generator).unbind(0)
    terminated, truncated = (torch.rand(2, *shape, 1, generator=generator) < 0.2).unbind(0)
    done = terminated | truncated
    after = TensorDict({"reward": reward, "terminated": terminated, "done": done}, shape)
    batch = ReturnToGo(make_critic(2.0), gamma=0.9)(TensorDict({"observation": observation, "next": after}, shape))
    rows, numbers, number = batch.reshape(-1, 12), [], 0
    for row in rows:
        total = 0.0
        for step in reversed(range(12)):
            total = row["next", "reward"][step].item() + 0.9 * total * (not row["next", "done"][step].item())
            assert row["value_target"][step].item() == pytest.approx(total, abs=1e-5)
            value = 2.0 * row["observation"][step].item()
            assert row["advantage"][step].item() == pytest.approx(total - value, abs=1e-5)
        for step in range(12):
            numbers.append(number)
            # a row's end is an episode's end too, so that no two rows share a number
            number += bool(row["next", "done"][step].item() or step == 11)
    assert rows["episode"].flatten().tolist() == numbers


@pytest.mark.parametrize("wrong", [{"n": 0, "gamma": 0.9}, {"n": 1, "gamma": 1.5}])
def test_steps_and_discounts_that_cannot_be(wrong):
    with pytest.raises(ValueError, match="allowed are 1 or more, and 0 to 1"):
        NStep(**wrong)
