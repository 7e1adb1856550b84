"""Gradient steps: clipping, what is frozen and thawed, what may be changed, and steps that are skipped."""

import pytest
import torch
from tensordict import TensorDict
from torch import nn

from rlpipe.losses import TargetUpdate, frozen_copy
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


@pytest.mark.parametrize("execution", ["eager", "recorded"])
def test_a_skipped_step_leaves_everything_as_it_is(execution):
    torch.manual_seed(0)
    loss, called, asked = Heads(), [], []
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.1)
    update = gradient_step(loss, optimizer, after=[lambda: called.append(1)], execution=execution)
    # long enough for a recording
    for number in range(30):
        before = [each.detach().clone() for each in loss.parameters()]
        moments = [each["step"].item() for each in optimizer.state.values()]
        skips = number % 3 == 2
        update.skip_if = lambda terms, skips=skips: asked.append(terms["loss"]) or (torch.tensor(skips))
        out = update(TensorDict({"x": torch.randn(8, 3)}, [8]))
        assert all(map(torch.equal, before, loss.parameters())) == skips
        assert ([each["step"].item() for each in optimizer.state.values()] == moments) == skips
        assert set(out.keys()) == {"loss", "updates" if skips else "grad_norm"}
        assert not skips or out["updates"] == 0
        assert torch.equal(asked[-1], out["loss"])
        assert not asked[-1].requires_grad
    assert len(called) == 20
    assert len(asked) == 30


def test_attributes_may_be_changed_while_it_learns():
    loss = TwoTerms()
    update = gradient_step(loss, torch.optim.SGD(loss.parameters(), lr=1.0), max_norm=2.5)
    update(TensorDict())
    torch.testing.assert_close(-loss.weight.data, torch.tensor([1.5, 2.0]))
    update.max_norm, update.max_value = None, 1.0
    update(TensorDict())
    torch.testing.assert_close(-loss.weight.data, torch.tensor([2.5, 3.0]))
    update.loss = other = TwoTerms()
    update.optimizer = torch.optim.SGD(other.parameters(), lr=2.0)
    update.execution = "recorded"
    update.after = [other.weight.data.zero_]
    update(TensorDict())
    assert loss.weight.grad.tolist() == [1.0, 1.0]
    assert other.weight.tolist() == [0.0, 0.0]
    update.loss = loss
    with pytest.raises(ValueError, match="the optimizer holds no parameter of TwoTerms"):
        update(TensorDict())


def test_it_says_what_it_reads_and_holds():
    loss = Heads()
    optimizer = torch.optim.Adam(loss.parameters())
    target = TargetUpdate(loss.trunk, frozen_copy(loss.trunk))
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    update = gradient_step(loss, optimizer, after=[target, schedule.step, lambda: None])
    assert update.in_keys == ["x"]
    assert update.held == {"loss": loss, "optimizer": optimizer, "target": target, "schedule": schedule}
    other = TwoTerms()
    assert gradient_step(other, torch.optim.SGD(other.parameters())).in_keys is None
