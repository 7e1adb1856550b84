"""Transitions for losses of Q networks, random or worked out by hand, and a network that is a table."""

import torch
from tensordict import TensorDict
from torch import nn, tensor


def random_transitions(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    terminated = torch.rand(*shape, 1, generator=generator) < 0.3
    truncated = torch.rand(*shape, 1, generator=generator) < 0.3
    after = {
        "observation": torch.randn(*shape, 4, generator=generator),
        "reward": torch.randn(*shape, 1, generator=generator),
        "terminated": terminated,
        "done": terminated | truncated,
    }
    return TensorDict(
        {
            "observation": torch.randn(*shape, 4, generator=generator),
            "action": torch.randint(3, shape, generator=generator),
            "next": TensorDict(after, shape),
        },
        shape,
    )


class Table(nn.Module):
    """Action values read off a list: state 0, 1, ... in the observation."""

    def __init__(self, values):
        super().__init__()
        self.values = nn.Parameter(tensor(values))

    def forward(self, observation):
        return self.values[observation.long().squeeze(-1)]


def transition(terminated=False):
    after = {"observation": tensor([[1.0]]), "reward": tensor([[2.0]]), "terminated": tensor([[terminated]])}
    return TensorDict({"observation": tensor([[0.0]]), "action": tensor([1]), "next": TensorDict(after, [1])}, [1])


def masked_transition(next_mask):
    batch = transition()
    batch["action_mask"] = tensor([[False, True]])
    batch["next", "action_mask"] = tensor([next_mask])
    return batch
