"""Batches, actors and critics over Box actions, for the losses of SAC and TD3."""

import torch
from tensordict import TensorDict
from torch import nn
from torchrl.data import Bounded

from rlpipe.modules import MLP, ActionValueCritic, DeterministicActor, GaussianActor

HALF = torch.tensor([2.0, 0.5])
SPEC = Bounded(-HALF.expand(16, 2), HALF.expand(16, 2))


def random_batch(*shape, seed=0):
    """Transitions `[*shape]` with terminated and truncated ones among them."""
    draw = torch.Generator().manual_seed(seed)
    terminated, truncated = (torch.rand(*shape, 1, generator=draw) < 0.3 for _ in range(2))
    after = {
        "observation": torch.randn(*shape, 3, generator=draw),
        "reward": torch.randn(*shape, 1, generator=draw),
        "terminated": terminated,
        "done": terminated | truncated,
        "discount": 0.9 * ~terminated,
    }
    observation, action = (torch.randn(*shape, n, generator=draw) for n in (3, 2))
    action = (action * HALF).clamp(-HALF, HALF)
    return TensorDict({"observation": observation, "action": action, "next": TensorDict(after, shape)}, shape)


def make_gaussian():
    """A policy with a standard deviation in each state."""
    torch.manual_seed(1)
    return GaussianActor(MLP(3, 4, (16,)), SPEC, state_dependent_std=True)


def make_deterministic():
    """An actor as that of TD3."""
    torch.manual_seed(1)
    return DeterministicActor(MLP(3, 2, (16,)), SPEC)


def make_critics():
    """Two critics."""
    torch.manual_seed(2)
    return nn.ModuleList(ActionValueCritic(MLP(5, 1, (16,)), SPEC) for _ in range(2))


def perturb(module):
    """Move a network away from its target, the same way each time."""
    draw = torch.Generator().manual_seed(5)
    for parameter in module.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=draw)


def stacked(critics):
    """The parameters of critics as TorchRL's losses hold them."""
    return torch.stack([TensorDict.from_module(each).data for each in critics])


def assert_same_gradients(critics, params):
    """Compare the gradients of critics with those of TorchRL's stacked parameters."""
    for name, theirs in params.flatten_keys(".").items():
        ours = torch.stack([each.get_parameter(name).grad for each in critics])
        torch.testing.assert_close(ours, theirs.grad, msg=name)


def reached(module):
    """The names of the parameters with a gradient that is not 0."""
    return {name for name, each in module.named_parameters() if each.grad is not None and each.grad.any()}
