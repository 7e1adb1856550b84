"""Target networks follow as often, and as far, as they are told."""

from copy import deepcopy

import pytest
import torch
from tensordict import TensorDict
from torch import nn
from torchrl.data import Categorical
from torchrl.objectives import HardUpdate, SoftUpdate

from rlpipe.losses import DQNLoss, HasTargets, TargetUpdate, frozen, frozen_copy
from rlpipe.modules import MLP, QActor


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


class TwinLoss(HasTargets):
    """A loss of the user's: an actor, two critics, a target of each, and a network that has none."""

    def __init__(self):
        super().__init__()
        self.actor, self.critics = nn.Linear(2, 1), nn.ModuleList([nn.Linear(3, 1), nn.Linear(3, 1)])
        self.target_actor, self.target_critics = frozen_copy(self.actor), frozen_copy(self.critics)
        self.target_less = nn.Linear(2, 2)

    def forward(self, batch):
        return TensorDict(loss=self.actor(batch["x"]).mean())


def make_q_loss():
    torch.manual_seed(0)
    return DQNLoss(QActor(MLP(4, 2, (8,)), Categorical(2, (1,))))


def move(module, seed):
    """Gradient steps, as it were."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator))


def pairs_of(loss):
    names = ["q_network", "target_network"] if isinstance(loss, DQNLoss) else ["critics", "target_critics"]
    return [getattr(loss, name) for name in names]


@pytest.mark.parametrize("make", [make_q_loss, TwinLoss])
def test_torchrls_soft_update_gives_our_numbers(make):
    stock = make()
    ours = deepcopy(stock)
    theirs, mine = SoftUpdate(stock, tau=0.1), TargetUpdate(*pairs_of(ours), tau=0.1)
    start = deepcopy(pairs_of(ours)[1])
    for seed in range(4):
        move(stock, seed)
        move(ours, seed)
        theirs.step()
        mine()
        for one, other in zip(pairs_of(stock)[1].parameters(), pairs_of(ours)[1].parameters(), strict=True):
            torch.testing.assert_close(one, other)
    for one, other in zip(pairs_of(stock)[1].parameters(), start.parameters(), strict=True):
        assert not torch.equal(one, other)
        assert not one.requires_grad


def test_it_moves_every_target_and_nothing_else():
    loss = TwinLoss()
    update = HardUpdate(loss, value_network_update_interval=0)
    move(loss, 0)
    moved = deepcopy(loss)
    update.step()
    for name, parameter in loss.named_parameters():
        source = dict(moved.named_parameters())[name.removeprefix("target_") if "less" not in name else name]
        assert torch.equal(parameter, source)


@pytest.mark.parametrize("n", [0, 2])
def test_torchrls_hard_update_copies_every_n_plus_one_steps(n):
    stock = make_q_loss()
    ours = deepcopy(stock)
    theirs = HardUpdate(stock, value_network_update_interval=n)
    mine = TargetUpdate(ours.q_network, ours.target_network, every=n + 1)
    for seed in range(7):
        move(stock, seed)
        move(ours, seed)
        theirs.step()
        mine()
        for one, other in zip(stock.parameters(), ours.parameters(), strict=True):
            assert torch.equal(one, other)


def test_its_place_is_in_its_state():
    loss = make_q_loss()
    update = HardUpdate(loss, value_network_update_interval=2)
    update.step()
    update.step()
    resumed = HardUpdate(loss, value_network_update_interval=2)
    resumed.load_state_dict(update.state_dict())
    move(loss, 0)
    resumed.step()
    assert torch.equal(loss.target_network.network[0].weight, loss.q_network.network[0].weight)


def test_making_and_initialising_it_copies():
    loss = make_q_loss()
    move(loss, 0)
    update = SoftUpdate(loss, tau=0.5)
    assert torch.equal(loss.target_network.network[0].weight, loss.q_network.network[0].weight)
    move(loss, 1)
    with pytest.warns(UserWarning, match="already initialized"):
        update.init_()
    assert torch.equal(loss.target_network.network[0].weight, loss.q_network.network[0].weight)


def test_it_follows_a_loss_that_was_moved_and_loaded():
    loss = make_q_loss()
    update = HardUpdate(loss, value_network_update_interval=0)
    loss.to(torch.float64)
    other = make_q_loss().to(torch.float64)
    move(other, 3)
    loss.load_state_dict(other.state_dict())
    update.step()
    assert torch.equal(loss.target_network.network[0].weight, other.q_network.network[0].weight)


def test_a_loss_without_a_target_is_refused_by_it():
    with pytest.raises(RuntimeError, match="Did not find any target parameters"):
        SoftUpdate(DQNLoss(QActor(MLP(4, 2), Categorical(2, (1,))), target_network=False), tau=0.5)


def test_parameters_under_torchrls_names_are_the_networks_own():
    loss = TwinLoss()
    assert loss.critics_params["1", "weight"] is loss.critics[1].weight
    assert loss.target_critics_params["1", "weight"] is loss.target_critics[1].weight
    assert loss.target_less_params["weight"] is loss.target_less.weight
    with pytest.raises(AttributeError, match="nothing_params"):
        _ = loss.nothing_params
    assert list(map(id, loss.children())) == list(map(id, loss._modules.values()))
    assert not any("params" in name for name in loss.state_dict())


def test_a_state_dict_has_the_names_that_it_always_had():
    layers = ["network.0.weight", "network.0.bias", "network.2.weight", "network.2.bias"]
    networks = ["q_network", "target_network"]
    loss = make_q_loss()
    SoftUpdate(loss, tau=0.5)
    assert list(loss.state_dict()) == [f"{network}.{layer}" for network in networks for layer in layers]


def test_torchrls_access_to_networks_gives_the_networks():
    loss, other = make_q_loss(), make_q_loss()
    move(other, 0)
    assert loss.get_stateful_net("q_network") is loss.q_network
    loss.from_stateful_net("q_network", other.q_network)
    assert torch.equal(loss.q_network.network[0].weight, other.q_network.network[0].weight)
    loss.reset_parameters_recursive()
    assert not torch.equal(loss.q_network.network[0].weight, other.q_network.network[0].weight)


def test_several_networks_follow_as_a_list():
    sources = nn.ModuleList([nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))])
    targets, before = frozen_copy(sources), [each.clone() for each in sources.parameters()]
    move(sources, 0)
    sources[1][1].running_mean += 3.0
    TargetUpdate(sources, targets, tau=0.25)()
    for source, target, start in zip(sources.parameters(), targets.parameters(), before, strict=True):
        torch.testing.assert_close(target, start + 0.25 * (source - start))
    assert torch.equal(targets[1][1].running_mean, sources[1][1].running_mean)
