"""QRDQNLoss: numbers by hand, a plain loop over pairs, DQN's loss of one quantile, and what gradients reach."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn, tensor
from torchrl.data import Categorical, MultiCategorical
from transitions import Table, masked_transition, random_transitions, transition

from rlpipe.losses import DQNLoss, QRDQNLoss, TargetUpdate
from rlpipe.losses import functional as F
from rlpipe.modules import MLP, QActor, QuantileActor
from rlpipe.pipelines.updates.recorder import make_gradient
from rlpipe.pipelines.updates.update import gradient_step

ACTIONS = Categorical(3, (16,))


def make_actor(quantiles=5, **options):
    torch.manual_seed(3)
    return QuantileActor(MLP(4, 3 * quantiles, (16,)), ACTIONS, quantiles, **options)


def two_quantiles(masked=False):
    """Of two actions in two states: means 0 and 0.5, and 3 and 5."""
    values = [[0.0, 0.0, 0.0, 1.0], [1.0, 5.0, 2.0, 8.0]]
    return QuantileActor(Table(values), Categorical(2, (1,)), 2, masked=masked)


@pytest.mark.parametrize(
    ("terminated", "options", "expected", "error"),
    [
        # targets 3 and 6 for 0 and 1: (0.25 * (2.5 + 5.5) + 0.75 * (1.5 + 4.5)) / 2
        (False, {}, 3.25, 4.0),
        # 2 and 2: 0.25 * 1.5 + 0.75 * 0.5
        (True, {}, 0.75, 1.5),
        # the Huber function by kappa: (0.25 * (2 + 5) + 0.75 * (1 + 4)) / 2
        (False, {"kappa": 2.0}, 2.75, 4.0),
        # close to absolute errors: (0.25 * (3 + 6) + 0.75 * (2 + 5)) / 2
        (False, {"kappa": 2**-20}, pytest.approx(3.75, abs=1e-5), 4.0),
        # of action 0, 2.5 and 4.5: (0.25 * (2 + 4) + 0.75 * (1 + 3)) / 2
        (False, {"double": True}, 2.25, 3.0),
        # of the online network, 5.5 and 6.5: (0.25 * (5 + 6) + 0.75 * (4 + 5)) / 2
        (False, {"target_network": False}, 4.75, 5.5),
    ],
)
def test_loss_of_one_transition(terminated, options, expected, error):
    network = two_quantiles()
    loss = QRDQNLoss(network, gamma=0.5, **options)
    # the online network now prefers action 0 in the next state, the target network still action 1
    network.network.values.data[1] = tensor([7.0, 9.0, 0.0, 1.0])
    out = loss(transition(terminated))
    assert out["loss_td"].item() == expected
    assert out["td_error"].item() == error
    assert out["q_mean"] == 0.5
    assert set(out.keys()) == set(loss.out_keys)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize(
    ("next_mask", "choices"),
    # without a mask the target network takes action 1, the online network action 0; none allowed: nothing is forbidden
    [([True, True], (1, 0)), ([True, False], (0, 0)), ([False, True], (1, 1)), ([False, False], (1, 0))],
)
def test_the_target_is_over_allowed_next_actions_only(next_mask, choices, double):
    network = two_quantiles(masked=True)
    loss = QRDQNLoss(network, gamma=0.5, double=double)
    network.network.values.data[1] = tensor([7.0, 9.0, 0.0, 1.0])
    out = loss(masked_transition(next_mask))
    # worked out above
    assert out["loss_td"].item() == {1: 3.25, 0: 2.25}[choices[double]]
    out["loss_td"].backward()
    gradient = network.network.values.grad
    assert gradient.isfinite().all()
    assert (gradient != 0).tolist() == [[False, False, True, True], [False] * 4]


def plain_loop(quantiles, target, kappa):
    """Equations 9 and 10 for one sample, pair by pair."""
    total = 0.0
    for i, theta in enumerate(quantiles):
        for each in target:
            u, tau = each - theta, (2 * i + 1) / (2 * len(quantiles))
            huber = (0.5 * u**2 if abs(u) <= kappa else kappa * (abs(u) - 0.5 * kappa)) / kappa
            total += abs(tau - (u < 0)) * huber / len(target)
    return total


@pytest.mark.parametrize("kappa", [1e-6, 0.3, 1.0, 10.0])
@pytest.mark.parametrize(("shape", "quantiles", "targets"), [((6,), 5, 5), ((2, 3), 4, 7), ((6,), 1, 1), ((6,), 3, 1)])
def test_quantile_huber_equals_a_plain_loop(shape, quantiles, targets, kappa):
    generator = torch.Generator().manual_seed(0)
    theta, target = (2 * torch.randn(*shape, n, generator=generator) for n in (quantiles, targets))
    pairs = zip(theta.reshape(6, -1).tolist(), target.reshape(6, -1).tolist(), strict=True)
    expected = np.reshape([plain_loop(*pair, kappa) for pair in pairs], shape)
    actual = F.quantile_huber(theta, target, kappa)
    assert actual.shape == shape
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-5)


def sb3_contrib_loss(current, target):
    """The quantile Huber loss of sb3-contrib's QR-DQN, whose kappa is 1."""
    levels = (torch.arange(current.shape[-1]) + 0.5) / current.shape[-1]
    delta = target.unsqueeze(-2) - current.unsqueeze(-1)
    huber = torch.where(delta.abs() > 1, delta.abs() - 0.5, delta**2 * 0.5)
    return (torch.abs(levels.view(1, -1, 1) - (delta.detach() < 0).float()) * huber).sum(-2).mean()


@pytest.mark.parametrize("double", [False, True])
def test_value_and_gradient_equal_a_plain_step(double):
    actor = make_actor()
    loss, batch = QRDQNLoss(actor, gamma=0.9, double=double), random_transitions(16)
    for parameter in actor.parameters():
        parameter.data += 0.1
    plain, after, row = deepcopy(actor.network), batch["next"], torch.arange(16)
    with torch.no_grad():
        theirs = loss.target_network.network(after["observation"]).reshape(16, 3, 5)
        chosen = (plain(after["observation"]).reshape(16, 3, 5) if double else theirs).mean(-1).argmax(-1)
        target = after["reward"] + 0.9 * ~after["terminated"] * theirs[row, chosen]
    current = plain(batch["observation"]).reshape(16, 3, 5)[row, batch["action"]]
    expected = sb3_contrib_loss(current, target)
    out = loss(batch)
    torch.testing.assert_close(out["loss_td"], expected)
    torch.testing.assert_close(out["q_mean"], current.mean().detach())
    torch.testing.assert_close(out["td_error"], (target.mean(-1) - current.mean(-1)).abs().mean().detach())
    expected.backward()
    out["loss_td"].backward()
    for mine, other in zip(actor.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


@pytest.mark.parametrize("options", [{}, {"double": True}, {"target_network": False}, {"prioritized": True}])
def test_one_quantile_is_half_of_dqn(options):
    # the weight of an error is 1/2 on both sides
    actor = make_actor(1)
    plain = QActor(actor.network, ACTIONS)
    ours, dqn = QRDQNLoss(actor, **options), DQNLoss(plain, kind="smooth_l1", **options)
    batch = random_transitions(16)
    batch["priority_weight"] = torch.rand(16, generator=torch.Generator().manual_seed(2))
    out, expected = ours(batch), dqn(batch)
    torch.testing.assert_close(2 * out["loss_td"], expected["loss_td"])
    for name in {"td_error", "q_mean", "priority"} & set(ours.out_keys):
        torch.testing.assert_close(out[name], expected[name])


def test_weights_and_priorities_of_two_transitions():
    loss = QRDQNLoss(two_quantiles(), gamma=0.5, prioritized=True)
    batch = torch.cat([transition(), transition(terminated=True)])
    batch["priority_weight"] = tensor([0.5, 1.0])
    out = loss(batch)
    assert out["priority"].tolist() == [4.0, 1.5]
    assert out["loss_td"].item() == (0.5 * 3.25 + 0.75) / 2
    assert not out["priority"].requires_grad
    assert set(out.keys()) == set(loss.out_keys)


def test_a_quantile_rests_where_its_share_of_the_targets_is_below():
    quantiles = tensor([0.5, 2.5, 4.5, 6.5], requires_grad=True)
    targets = torch.arange(8.0)
    (gradient,) = torch.autograd.grad(F.quantile_huber(quantiles, targets, 0.25), quantiles)
    assert gradient.tolist() == [0.0] * 4
    moved = (quantiles + tensor([1.0, 0.0, 0.0, -1.0])).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(F.quantile_huber(moved, targets, 0.25), moved)
    assert gradient.sign().tolist() == [1.0, 0.0, 0.0, -1.0]


def test_the_distribution_is_learned_and_not_its_mean_alone():
    actor = QuantileActor(nn.Linear(4, 4), Categorical(1, (64,)), 4)
    loss = QRDQNLoss(actor, kappa=0.01)
    batch = random_transitions(64)
    batch["action"].zero_()
    batch["observation"].zero_()
    batch["next", "terminated"].fill_(True)
    batch["next", "reward"] = torch.where(torch.arange(64) % 4 == 0, -1.0, 3.0).unsqueeze(-1)
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.1)
    update = gradient_step(loss, optimizer, execution="recorded")
    for number in range(150):
        optimizer.param_groups[0]["lr"] = 0.1 * 0.97**number
        update(batch)
    learned = actor(batch)["quantiles"][0, 0].tolist()
    # three quarters of the returns are 3
    assert learned == pytest.approx([-1.0, 3.0, 3.0, 3.0], abs=0.2)


def test_n_step_reads_its_discount_from_the_batch():
    one, many = (QRDQNLoss(make_actor(), gamma=0.9, n_step=n_step) for n_step in (False, True))
    batch = random_transitions(16)
    batch["next", "discount"] = 0.9 * (~batch["next", "terminated"])
    assert many.in_keys == [*one.in_keys[:-1], ("next", "discount")]
    assert torch.equal(one(batch)["loss_td"], many(batch.exclude(("next", "terminated")))["loss_td"])
    batch["next", "discount"] *= 0.5
    assert one(batch)["loss_td"] != many(batch)["loss_td"]


def test_gradient_reaches_the_online_network_only():
    loss = QRDQNLoss(make_actor(), double=True)
    loss(random_transitions(16))["loss_td"].backward()
    assert all(parameter.grad is not None for parameter in loss.q_network.parameters())
    assert all(parameter.grad is None for parameter in loss.target_network.parameters())
    assert not any(parameter.requires_grad for parameter in loss.target_network.parameters())


def test_input_is_untouched_and_any_batch_shape_will_do(identical):
    loss = QRDQNLoss(make_actor(), double=True)
    batch = random_transitions(4, 4)
    before = deepcopy(batch)
    folded = loss(batch)["loss_td"]
    identical(batch, before)
    torch.testing.assert_close(loss(batch.reshape(-1))["loss_td"], folded)


@pytest.mark.parametrize("options", [{"double": True}, {"kappa": 0.3}, {"prioritized": True}])
def test_a_recording_gives_the_same_bits(options):
    eager, recorded = (QRDQNLoss(make_actor(), **options) for _ in range(2))
    gradients = [
        make_gradient(each, list(each.q_network.parameters()), how)
        for each, how in ((eager, "eager"), (recorded, "recorded"))
    ]
    for seed in range(25):
        batch = random_transitions(16, seed=seed)
        batch["priority_weight"] = torch.rand(16, generator=torch.Generator().manual_seed(seed))
        (expected, terms), (actual, others) = (each(batch.clone()) for each in gradients)
        assert all(map(torch.equal, actual, expected))
        assert all(torch.equal(others[key], value) for key, value in terms.items())
    assert len(gradients[1]._recordings) == 1


def test_several_choices_at_once():
    spec = MultiCategorical([2, 3], (16, 2))
    torch.manual_seed(0)
    loss = QRDQNLoss(QuantileActor(MLP(4, 12, (8,)), spec, 2), double=True)
    batch = random_transitions(16)
    joint = batch["action"].clone()
    # of six combinations, numbers 0 to 2 are those whose first choice is 0
    batch["action"] = torch.stack([torch.zeros_like(joint), joint], -1)
    loss(batch)["loss_td"].backward()
    used = (loss.q_network.network[-1].bias.grad != 0).reshape(6, 2).any(-1)
    assert used.tolist() == [True, True, True, False, False, False]


def test_the_network_may_be_a_sequence_or_write_other_keys():
    actor, batch = make_actor(), random_transitions(16)
    encoder = TensorDictModule(nn.Identity(), in_keys=["observation"], out_keys=["features"])
    names = {"in_keys": ["features"], "out_keys": ["worths", "action", "best", "spread"]}
    sequence = TensorDictSequential(encoder, QuantileActor(actor.network, ACTIONS, 5, **names))
    loss = QRDQNLoss(sequence, double=True)
    loss.set_keys(action_value="worths", quantiles="spread")
    assert torch.equal(loss(batch)["loss_td"], QRDQNLoss(actor, double=True)(batch)["loss_td"])


def test_the_target_network_follows():
    loss = QRDQNLoss(make_actor())
    follow = TargetUpdate(loss.q_network, loss.target_network, tau=1.0)
    for parameter in loss.q_network.parameters():
        parameter.data += 1.0
    batch = random_transitions(16)
    before = loss(batch)["td_error"]
    follow()
    assert loss(batch)["td_error"] != before
    assert loss(batch)["loss_td"] == QRDQNLoss(loss.q_network)(batch)["loss_td"]


def test_messages():
    with pytest.raises(ValueError, match="double=True needs target_network=True"):
        QRDQNLoss(make_actor(), double=True, target_network=False)
    for kappa in (0.0, float("nan")):
        with pytest.raises(ValueError, match=f"kappa is {kappa}; allowed is more than 0"):
            QRDQNLoss(make_actor(), kappa=kappa)
    with pytest.raises(TypeError, match="unexpected keyword argument 'gama'"):
        QRDQNLoss(make_actor(), gama=0.9)
    loss = QRDQNLoss(QActor(MLP(4, 3, (16,)), ACTIONS))
    with pytest.raises(KeyError, match="no key 'quantiles'; it has"):
        loss(random_transitions(16))
    with pytest.raises(ValueError, match="QRDQNLoss looks one step ahead, by TD0 with gamma; got TDLAMBDA, gamma"):
        loss.make_value_estimator("TDLambda", gamma=0.9)
