"""GAE over a batch: golden three-step episodes, TorchRL's module, and what the critic is asked."""

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModuleBase
from torch import nn, tensor
from torchrl.modules import ValueOperator
from torchrl.objectives.value import GAE as StockGAE

from rlpipe.losses import GAE
from rlpipe.modules import MLP, Critic


class StateIsValue(TensorDictModuleBase):
    """A critic whose value is the observation, and which keeps all that it was asked."""

    def __init__(self):
        super().__init__()
        self.in_keys, self.out_keys = ["observation"], ["state_value"]
        self.asked = []

    def forward(self, tensordict):
        self.asked.append(tensordict["observation"].flatten().tolist())
        return tensordict.set("state_value", tensordict["observation"].clone())


def episode(terminated, truncated):
    """Observations 1, 2, 3, true next ones 2, 3, 9; rewards 1, 1, 1; the next episode's start is 5."""
    columns = {"reward": [1.0, 1.0, 1.0, 1.0], "observation": [2.0, 3.0, 9.0, 6.0]}
    after = {key: tensor(values).reshape(1, 4, 1) for key, values in columns.items()}
    after["terminated"] = tensor([False, False, terminated, False]).reshape(1, 4, 1)
    after["done"] = tensor([False, False, terminated or truncated, False]).reshape(1, 4, 1)
    observation = tensor([1.0, 2.0, 3.0, 5.0]).reshape(1, 4, 1)
    return TensorDict({"observation": observation, "next": TensorDict(after, [1, 4])}, [1, 4])


@pytest.mark.parametrize(
    ("terminated", "truncated", "expected"),
    [
        # deltas: 1 + 0.5 * 2 - 1, 1 + 0.5 * 3 - 2, then 1 - 3 or 1 + 0.5 * 9 - 3, and 1 + 0.5 * 6 - 5
        pytest.param(True, False, [1 + 0.25 * 0.0, 0.5 + 0.25 * -2, -2.0, -1.0], id="terminated"),
        pytest.param(False, True, [1 + 0.25 * 1.125, 0.5 + 0.25 * 2.5, 2.5, -1.0], id="truncated"),
    ],
)
def test_golden_episode(terminated, truncated, expected):
    batch = GAE(StateIsValue(), gamma=0.5, lmbda=0.5)(episode(terminated, truncated))
    torch.testing.assert_close(batch["advantage"].flatten(), tensor(expected))
    torch.testing.assert_close(batch["value_target"], batch["advantage"] + batch["observation"])
    assert torch.equal(batch["state_value"], batch["observation"])


def test_one_pass_over_the_critic_values_only_what_is_needed():
    critic = StateIsValue()
    GAE(critic)(episode(terminated=False, truncated=True))
    assert critic.asked == [[1.0, 2.0, 3.0, 5.0, 9.0, 6.0]]


@pytest.mark.parametrize("shape", [(1, 1), (3, 20), (2, 3, 20)])
def test_equals_torchrl(shape):
    torch.manual_seed(0)
    network = MLP(4, 1, (8,))
    states = torch.randn(*shape[:-1], shape[-1] + 1, 4)
    terminated, truncated = (torch.rand(2, *shape, 1) < 0.1).unbind(0)
    done = terminated | truncated
    last = torch.where(done, torch.randn(*shape, 4), states[..., 1:, :])
    after = {"observation": last, "reward": torch.randn(*shape, 1), "terminated": terminated, "done": done}
    batch = TensorDict({"observation": states[..., :-1, :], "next": TensorDict(after, shape)}, shape)
    stock = StockGAE(gamma=0.9, lmbda=0.8, value_network=ValueOperator(network), vectorized=True)
    expected = stock(batch.clone())
    actual = GAE(Critic(network), gamma=0.9, lmbda=0.8)(batch.clone())
    for key in ("advantage", "value_target", "state_value"):
        torch.testing.assert_close(actual[key], expected[key], rtol=0, atol=1e-5)


def test_needs_no_gradient():
    network = nn.Linear(1, 1)
    batch = GAE(Critic(network))(episode(terminated=True, truncated=False))
    assert not batch["advantage"].requires_grad
