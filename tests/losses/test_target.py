"""Target networks follow as often, and as far, as they are told."""

import pytest
import torch
from torch import nn

from rlpipe.losses import TargetUpdate, frozen, frozen_copy


def make_pair():
    source = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    target = frozen_copy(source)
    with torch.no_grad():
        torch._foreach_add_(list(source.parameters()), 1.0)
        source[1].running_mean += 3.0
    return source, target


def gap(source, target):
    return (source[0].weight - target[0].weight).mean().item()


def test_soft_update_moves_by_tau():
    source, target = make_pair()
    update = TargetUpdate(source, target, tau=0.25)
    update()
    assert gap(source, target) == pytest.approx(0.75)
    update()
    assert gap(source, target) == pytest.approx(0.75**2)


def test_periodic_update_copies_at_exactly_every_nth_call():
    source, target = make_pair()
    update = TargetUpdate(source, target, every=3)
    copied = []
    for call in range(1, 8):
        update()
        if gap(source, target) == 0.0:
            copied.append(call)
            source[0].weight.data += 1.0
    assert copied == [3, 6]


def test_buffers_follow():
    source, target = make_pair()
    TargetUpdate(source, target, tau=0.5)()
    assert torch.equal(target[1].running_mean, source[1].running_mean)


def test_state_places_the_next_copy():
    source, target = make_pair()
    update = TargetUpdate(source, target, every=3)
    update()
    update()
    resumed = TargetUpdate(source, target, every=3)
    resumed.load_state_dict(update.state_dict())
    resumed()
    assert gap(source, target) == 0.0


@pytest.mark.parametrize(("options", "message"), [({"tau": 0.0}, "tau is 0.0"), ({"every": 0}, "every is 0")])
def test_messages(options, message):
    with pytest.raises(ValueError, match=message):
        TargetUpdate(*make_pair(), **options)


def test_gradients_pass_through_what_is_frozen_and_leave_it_alone():
    source, other = nn.Linear(2, 1), frozen_copy(nn.Linear(2, 1))
    x = torch.ones(3, 2, requires_grad=True)
    with frozen(source, other):
        (source(x) + other(x)).sum().backward()
    assert (x.grad != 0).all()
    assert source.weight.grad is None
    assert source.weight.requires_grad
    assert not other.weight.requires_grad


def test_what_was_frozen_learns_again_after_an_error():
    source = nn.Linear(2, 1)
    with pytest.raises(RuntimeError), frozen(source):
        source(torch.ones(3))
    assert all(parameter.requires_grad for parameter in source.parameters())


def test_networks_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"make the target by frozen_copy\(source\)"):
        TargetUpdate(nn.Linear(2, 3), nn.Linear(3, 2))
