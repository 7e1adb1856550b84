"""n-step returns: golden three-step episodes, and a plain loop."""

import pytest
import torch
from tensordict import TensorDict
from torch import tensor

from rlpipe.modules import NStep


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
