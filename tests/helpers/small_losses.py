"""Losses, networks and batches small enough to be followed by hand."""

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn, tensor
from torchrl.data import Categorical
from torchrl.modules import ProbabilisticActor, ValueOperator
from torchrl.objectives import LossModule

from rlpipe.modules import MLP, CategoricalActor, Critic

ACTIONS = Categorical(3, (32,))


def make_network(outputs, seed):
    torch.manual_seed(seed)
    return MLP(4, outputs, (16,))


def make_stock_modules():
    logits = TensorDictModule(make_network(3, 1), in_keys=["observation"], out_keys=["logits"])
    actor = ProbabilisticActor(
        logits, in_keys=["logits"], distribution_class=torch.distributions.Categorical, return_log_prob=True
    )
    return actor, ValueOperator(make_network(1, 2), in_keys=["observation"])


def random_batch(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*size):
        return torch.randn(*shape, *size, generator=generator)

    return TensorDict(
        {
            "observation": normal(4),
            "action": torch.randint(3, shape, generator=generator),
            "action_log_prob": -1.1 + 0.4 * normal(),
            "advantage": 1.0 + 2.0 * normal(1),
            "value_target": normal(1),
            "state_value": normal(1),
        },
        shape,
    )


def check_gradients(network, stock_parameters, prefix):
    gradients = {key: value.grad for key, value in stock_parameters.flatten_keys().items()}
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[prefix + name], rtol=0, atol=1e-5)


def make_two_action_modules():
    """An actor of probabilities 1/4 and 3/4 in every state, and a critic whose value is the observation."""
    policy, value = nn.Linear(1, 2), nn.Linear(1, 1)
    with torch.no_grad():
        policy.weight.zero_()
        policy.bias.copy_(tensor([0.25, 0.75]).log())
        value.weight.fill_(1.0)
        value.bias.zero_()
    return CategoricalActor(policy, Categorical(2, (2,))), Critic(value)


def two_steps():
    entries = {
        "observation": tensor([[1.0], [2.0]]),
        "action": tensor([0, 1]),
        "advantage": tensor([[2.0], [-1.0]]),
        "value_target": tensor([[4.0], [2.0]]),
    }
    return TensorDict(entries, [2])


class Part(nn.Module):
    """Adds `offset`, and in evaluation nine more."""

    def __init__(self):
        super().__init__()
        self.register_buffer("offset", torch.tensor(0.0))

    def forward(self, x):
        return x + (self.offset if self.training else 9.0 + self.offset)


class Cubic(LossModule):
    """`loss_cubic`, the mean of `w^3 (x + offset)`; a parameter that takes no part; and a number that may change."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.weight, self.idle = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.zeros(3))
        self.scale = scale
        self.part = Part()
        self.in_keys, self.out_keys = [("next", "x")], ["loss_cubic", "mean"]

    def forward(self, batch):
        x = self.part(batch.get(("next", "x")))
        return TensorDict({"loss_cubic": self.scale * (self.weight**3 * x).mean(), "mean": x.mean()})


def batch_of(*numbers):
    x = torch.tensor(numbers, dtype=torch.float32)
    return TensorDict({"next": TensorDict({"x": x}, x.shape), "more": x}, x.shape)
