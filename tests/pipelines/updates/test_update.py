"""Updates: gradient steps, epochs over a batch, replay."""

import pytest
import torch
from tensordict import TensorDict
from torch import nn
from torchrl.data import LazyTensorStorage, ReplayBuffer
from torchrl.data.replay_buffers import SamplerWithoutReplacement

from rlpipe.pipelines.updates.combining import mean_of
from rlpipe.pipelines.updates.learning import off_policy, on_policy
from rlpipe.pipelines.updates.update import gradient_step


class TwoTerms(nn.Module):
    """`loss_a = 3 w0 + 4 w1`, `loss_b = 0`, and something else that is no loss."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.coefficients = torch.tensor([3.0, 4.0])

    def forward(self, minibatch):
        value = (self.coefficients * self.weight).sum()
        return TensorDict({"loss_a": value, "loss_b": 0.0 * value, "diagnostic": value * 100})


@pytest.mark.parametrize(
    ("options", "norm", "step"),
    [
        ({}, 5.0, [3.0, 4.0]),
        ({"max_norm": 2.5}, 5.0, [1.5, 2.0]),
        ({"max_norm": 10.0}, 5.0, [3.0, 4.0]),
        ({"max_value": 3.5}, (3.0**2 + 3.5**2) ** 0.5, [3.0, 3.5]),
        ({"max_value": 3.0, "max_norm": 18.0**0.5 / 2}, 18.0**0.5, [1.5, 1.5]),
    ],
)
def test_gradient_step(options, norm, step):
    loss, called = TwoTerms(), []
    optimizer = torch.optim.SGD(loss.parameters(), lr=1.0)
    update = gradient_step(loss, optimizer, after=[lambda: called.append(loss.weight.tolist())], **options)
    out = update(TensorDict())
    assert out["grad_norm"].item() == pytest.approx(norm)
    torch.testing.assert_close(-loss.weight.data, torch.tensor(step), rtol=0, atol=1e-5)
    assert called == [loss.weight.tolist()]
    assert not any(value.requires_grad for value in out.values())


def test_parameters_that_take_no_gradient_are_left_alone():
    loss = TwoTerms()
    loss.register_parameter("frozen", nn.Parameter(torch.ones(2), requires_grad=False))
    update = gradient_step(loss, torch.optim.SGD(loss.parameters(), lr=1.0))
    update(TensorDict())
    torch.testing.assert_close(-loss.weight.data, torch.tensor([3.0, 4.0]))
    assert loss.frozen.tolist() == [1.0, 1.0]


class Heads(nn.Module):
    """Two heads on a trunk."""

    in_keys = ["x"]

    def __init__(self):
        super().__init__()
        self.trunk, self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 1), nn.Linear(4, 1)

    def forward(self, batch):
        features = self.trunk(batch["x"]).tanh()
        return TensorDict({"loss": (self.first(features) + self.second(features)).square().mean()})


def double(parameter):
    parameter.grad.mul_(2)


def weights_of(execution, make_optimizer):
    """All weights after each of a hundred updates, between which parameters are frozen, thawed, added and hooked."""
    torch.manual_seed(0)
    loss = Heads()
    loss.trunk.requires_grad_(False)
    optimizer = make_optimizer([*loss.trunk.parameters(), *loss.first.parameters()])
    update = None if execution == "plain" else gradient_step(loss, optimizer, execution=execution)
    changes = {
        20: lambda: loss.trunk.requires_grad_(True),
        35: lambda: loss.first.bias.requires_grad_(False),
        50: lambda: optimizer.add_param_group({"params": list(loss.second.parameters()), "lr": 0.5}),
        60: lambda: loss.trunk.requires_grad_(False),
        70: lambda: loss.first.weight.register_post_accumulate_grad_hook(double),
        80: lambda: loss.first.weight.register_hook(lambda gradient: gradient * 3),
        90: lambda: optimizer.load_state_dict(optimizer.state_dict()),
    }
    for number in range(100):
        changes.get(number, lambda: None)()
        batch = TensorDict({"x": torch.randn(8, 3)}, [8])
        if update is not None:
            update(batch)
        else:
            optimizer.zero_grad()
            loss(batch)["loss"].backward()
            optimizer.step()
        yield torch.cat([each.detach().flatten() for each in loss.parameters()])


@pytest.mark.parametrize("execution", ["eager", "recorded"])
@pytest.mark.parametrize(
    "optimizer",
    [
        lambda each: torch.optim.Adam(each, lr=0.01),
        lambda each: torch.optim.SGD(each, lr=0.1, momentum=0.9, weight_decay=0.1),
    ],
)
def test_what_is_frozen_thawed_and_added_learns_as_in_a_plain_loop(execution, optimizer):
    expected, actual = weights_of("plain", optimizer), weights_of(execution, optimizer)
    for number, (one, other) in enumerate(zip(list(expected), list(actual), strict=True)):
        assert torch.equal(one, other), number


def test_a_step_without_anything_to_learn_says_so_and_goes_on_once_there_is():
    loss = Heads().requires_grad_(False)
    update = gradient_step(loss, torch.optim.SGD(loss.parameters(), lr=1.0))
    batch = TensorDict({"x": torch.ones(2, 3)}, [2])
    with pytest.raises(ValueError, match="depends on a parameter that the optimizer holds and that takes a gradient"):
        update(batch)
    loss.requires_grad_(True)
    assert update(batch)["grad_norm"].item() > 0


def test_an_optimizer_that_steps_in_its_parameters_hooks_is_left_to_it():
    loss, seen = Heads(), []

    def keep(parameter):
        seen.append(parameter.grad)
        parameter.grad = None

    for parameter in loss.parameters():
        parameter.register_post_accumulate_grad_hook(keep)
    update = gradient_step(loss, torch.optim.SGD(loss.parameters(), lr=1.0), max_norm=1.0)
    assert update(TensorDict({"x": torch.ones(2, 3)}, [2]))["grad_norm"].item() == 0
    assert len(seen) == 6


def frames(start, count):
    values = torch.arange(start, start + count).reshape(2, -1)
    after = TensorDict({"reward": values.unsqueeze(-1)}, values.shape)
    return TensorDict({"observation": values, "unused": values, "next": after}, values.shape)


class Recorder:
    """An update that keeps what it was given."""

    def __init__(self):
        self.seen = []

    def __call__(self, minibatch):
        self.seen.append(minibatch.clone())
        return TensorDict({"loss_x": torch.tensor(float(len(self.seen)))})


@pytest.mark.parametrize("size", [12, 30])
def test_on_policy_makes_each_epoch_a_permutation_of_the_batch_with_its_advantages(size):
    update = Recorder()
    buffer = ReplayBuffer(storage=LazyTensorStorage(size), sampler=SamplerWithoutReplacement(), batch_size=5)

    def advantage(batch):
        return batch.set("advantage", -batch["observation"])

    learn = on_policy(advantage, buffer, update, epochs=2, keys=["observation", "advantage"])
    for start in (0, 100):
        update.seen.clear()
        out = learn(frames(start, 12))
        assert [len(minibatch) for minibatch in update.seen] == [5, 5, 2, 5, 5, 2]
        for epoch in (update.seen[:3], update.seen[3:]):
            seen = torch.cat(epoch)
            assert sorted(seen["observation"].tolist()) == list(range(start, start + 12))
            assert torch.equal(seen["advantage"], -seen["observation"])
            assert set(seen.keys()) == {"observation", "advantage"}
        assert out["updates"] == 6
        assert out["loss_x"] == 3.5


def test_off_policy_waits_for_the_warmup_and_keeps_the_newest():
    update = Recorder()
    buffer = ReplayBuffer(storage=LazyTensorStorage(20), batch_size=64)
    keys = ["observation", ("next", "reward")]
    learn = off_policy(buffer, update, updates=3, warmup=15, keys=keys)
    assert learn(frames(0, 12))["updates"] == 0
    assert not update.seen
    assert learn(frames(12, 12))["updates"] == 3
    assert [len(minibatch) for minibatch in update.seen] == [64, 64, 64]
    stored = set(torch.cat(update.seen)["observation"].tolist())
    assert stored == set(range(4, 24))
    assert set(update.seen[0].keys(True, True)) == set(keys)
    assert torch.equal(update.seen[0]["next", "reward"].squeeze(-1), update.seen[0]["observation"])


def test_mean_of():
    scalars = [TensorDict({"x": torch.tensor(value)}) for value in (1.0, 4.0)]
    out = mean_of(scalars)
    assert (out["x"], out["updates"]) == (2.5, 2)
    assert mean_of([])["updates"] == 0
