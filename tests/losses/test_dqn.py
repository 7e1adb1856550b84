"""DQNLoss: numbers by hand, TorchRL's values and gradients, what gradients reach, and its messages."""

from copy import deepcopy

import pytest
import torch
from torch import tensor
from torchrl.data import Categorical
from torchrl.modules import QValueActor
from torchrl.objectives import DQNLoss as StockDQNLoss
from transitions import Table, masked_transition, random_transitions, transition

from rlpipe.losses import DQNLoss
from rlpipe.modules import MLP, QActor

ACTIONS = Categorical(3, (16,))


def make_network():
    torch.manual_seed(3)
    return MLP(4, 3, (16,))


def perturb(parameters):
    """Move the online network away from its target, the same way each time."""
    generator = torch.Generator().manual_seed(5)
    for parameter in parameters:
        parameter.data += torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize(
    ("terminated", "options", "expected"),
    [
        (False, {}, (2 + 0.5 * 9 - 1) ** 2),
        (True, {}, (2 - 1) ** 2),
        (False, {"kind": "smooth_l1"}, 5.5 - 0.5),
        (False, {"target_network": False}, (2 + 0.5 * 8 - 1) ** 2),
        (False, {"double": True}, (2 + 0.5 * 4 - 1) ** 2),
    ],
)
def test_loss_of_one_transition(terminated, options, expected):
    network = QActor(Table([[0.0, 1.0], [4.0, 9.0]]), Categorical(2, (1,)))
    loss = DQNLoss(network, gamma=0.5, **options)
    # the online network now prefers action 0 in the next state, the target network still action 1
    network.network.values.data[1] = tensor([8.0, 7.0])
    out = loss(transition(terminated))
    torch.testing.assert_close(out["loss_td"].detach(), tensor(float(expected)))
    assert out["q_mean"] == 1.0
    error = expected**0.5 if loss.kind == "mse" else expected + 0.5
    assert out["td_error"].item() == pytest.approx(error)


@pytest.mark.parametrize(
    ("next_mask", "options", "next_value"),
    [
        ([True, True], {}, 9),
        ([True, False], {}, 4),
        ([False, True], {}, 9),
        # the online network prefers action 0 in the next state, where it may
        ([True, True], {"double": True}, 4),
        ([False, True], {"double": True}, 9),
        ([True, False], {"double": True}, 4),
        ([True, False], {"target_network": False}, 8),
        ([False, True], {"target_network": False}, 7),
        # none allowed: the episode has ended, and nothing is taken to be forbidden
        ([False, False], {}, 9),
        ([False, False], {"double": True}, 4),
    ],
)
def test_the_target_is_over_allowed_next_actions_only(next_mask, options, next_value):
    network = QActor(Table([[0.0, 1.0], [4.0, 9.0]]), Categorical(2, (1,)), masked=True)
    loss = DQNLoss(network, gamma=0.5, **options)
    assert {"action_mask", ("next", "action_mask")} <= set(loss.in_keys)
    network.network.values.data[1] = tensor([8.0, 7.0])
    out = loss(masked_transition(next_mask))
    torch.testing.assert_close(out["loss_td"].detach(), tensor((2 + 0.5 * next_value - 1) ** 2))
    out["loss_td"].backward()
    gradient = network.network.values.grad
    assert gradient.isfinite().all()
    assert (gradient != 0).tolist() == [[False, True], [False, False]]


@pytest.mark.filterwarnings("ignore:No target network updater")
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize(("kind", "stock_kind"), [("mse", "l2"), ("smooth_l1", "smooth_l1")])
def test_value_and_gradient_equal_torchrl(double, kind, stock_kind):
    ours = DQNLoss(QActor(make_network(), ACTIONS), gamma=0.9, kind=kind, double=double)
    stock_actor = QValueActor(make_network(), in_keys=["observation"], action_space="categorical")
    stock = StockDQNLoss(
        stock_actor, loss_function=stock_kind, delay_value=True, double_dqn=double, action_space="categorical"
    )
    stock.make_value_estimator(gamma=0.9)
    stock_parameters = dict(stock.value_network_params.flatten_keys().items())
    order = sorted(stock_parameters)
    online = dict(ours.q_network.network.named_parameters())
    perturb([stock_parameters[key] for key in order])
    perturb([online[key.removeprefix("module.0.module.")] for key in order])
    batch = random_transitions(16)
    expected, actual = stock(batch.clone())["loss"], ours(batch)["loss_td"]
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)
    expected.backward()
    actual.backward()
    for key in order:
        gradient = online[key.removeprefix("module.0.module.")].grad
        torch.testing.assert_close(gradient, stock_parameters[key].grad, rtol=0, atol=1e-5)


def test_n_step_reads_its_discount_from_the_batch():
    one, many = (DQNLoss(QActor(make_network(), ACTIONS), gamma=0.9, n_step=n_step) for n_step in (False, True))
    batch = random_transitions(16)
    batch["next", "discount"] = 0.9 * (~batch["next", "terminated"])
    assert torch.equal(one(batch)["loss_td"], many(batch.exclude(("next", "terminated")))["loss_td"])
    batch["next", "discount"] *= 0.5
    assert one(batch)["loss_td"] != many(batch)["loss_td"]


def test_accepts_a_stock_actor():
    ours = DQNLoss(QActor(make_network(), ACTIONS), double=True)
    stock = DQNLoss(QValueActor(make_network(), in_keys=["observation"], action_space="categorical"), double=True)
    batch = random_transitions(16)
    assert torch.equal(ours(batch)["loss_td"], stock(batch)["loss_td"])


def test_gradient_reaches_the_online_network_only():
    loss = DQNLoss(QActor(make_network(), ACTIONS), double=True)
    loss(random_transitions(16))["loss_td"].backward()
    assert all(parameter.grad is not None for parameter in loss.q_network.parameters())
    assert all(parameter.grad is None for parameter in loss.target_network.parameters())
    assert not any(parameter.requires_grad for parameter in loss.target_network.parameters())


def test_input_is_untouched_and_any_batch_shape_will_do(identical):
    loss = DQNLoss(QActor(make_network(), ACTIONS))
    batch = random_transitions(4, 4)
    before = deepcopy(batch)
    folded = loss(batch)["loss_td"]
    identical(batch, before)
    torch.testing.assert_close(loss(batch.reshape(-1))["loss_td"], folded)


def test_out_keys_are_what_it_returns():
    loss = DQNLoss(QActor(make_network(), ACTIONS))
    assert set(loss(random_transitions(16)).keys()) == set(loss.out_keys)


def test_messages():
    loss = DQNLoss(QActor(make_network(), ACTIONS))
    with pytest.raises(ValueError, match="double=True needs target_network=True"):
        DQNLoss(QActor(make_network(), ACTIONS), double=True, target_network=False)
    flat = random_transitions(16)
    flat["next"].set("reward", torch.zeros(16))
    with pytest.raises(ValueError, match=r"'reward' has shape \[16\], expected \[16, 1\]"):
        loss(flat)
    one_hot = random_transitions(16).set("action", torch.zeros(16, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="categorical_action_encoding=True"):
        loss(one_hot)
    with pytest.raises(KeyError, match="no key 'next'"):
        loss(random_transitions(16).exclude("next"))


def test_weights_and_priorities_of_three_transitions():
    network = QActor(Table([[0.0, 1.0], [4.0, 9.0]]), Categorical(2, (3,)))
    loss = DQNLoss(network, gamma=0.5, prioritized=True)
    batch = torch.cat([transition(), transition(terminated=True), transition(terminated=True)])
    batch["next", "reward"] = tensor([[2.0], [2.0], [-3.0]])
    batch["priority_weight"] = tensor([0.5, 1.0, 0.25])
    out = loss(batch)
    # errors 2 + 0.5 * 9 - 1, 2 - 1, -3 - 1
    assert out["priority"].tolist() == [5.5, 1.0, 4.0]
    assert out["loss_td"].item() == pytest.approx((0.5 * 5.5**2 + 1.0 + 0.25 * 16) / 3)
    assert out["td_error"].item() == 3.5
    assert not out["priority"].requires_grad
    assert set(out.keys()) == set(loss.out_keys)
    # the gradient of (1 - target)^2 weighted, by Q(s, a) = 1
    out["loss_td"].backward()
    gradient = network.network.values.grad[0, 1].item()
    assert gradient == pytest.approx(2 * (-0.5 * 5.5 - 1.0 + 0.25 * 4.0) / 3)


def test_weights_are_read_by_a_prioritised_loss_only():
    plain, prioritized = (DQNLoss(QActor(make_network(), ACTIONS), prioritized=each) for each in (False, True))
    batch = random_transitions(16)
    with pytest.raises(KeyError, match="no key 'priority_weight'"):
        prioritized(batch)
    batch["priority_weight"] = torch.ones(16)
    assert torch.equal(plain(batch)["loss_td"], prioritized(batch)["loss_td"])
    assert "priority" not in plain(batch)


@pytest.mark.filterwarnings("ignore:No target network updater")
def test_weighted_value_equals_torchrl_but_for_its_sum_of_weights():
    ours = DQNLoss(QActor(make_network(), ACTIONS), gamma=0.9, prioritized=True)
    stock_actor = QValueActor(make_network(), in_keys=["observation"], action_space="categorical")
    stock = StockDQNLoss(stock_actor, loss_function="l2", delay_value=True, action_space="categorical")
    stock.make_value_estimator(gamma=0.9)
    batch = random_transitions(16)
    weight = batch["priority_weight"] = torch.rand(16, generator=torch.Generator().manual_seed(2))
    theirs = batch.clone()
    expected = stock(theirs)["loss"] * weight.mean()
    out = ours(batch)
    torch.testing.assert_close(out["loss_td"], expected, rtol=0, atol=1e-5)
    # which takes the square for a priority
    torch.testing.assert_close(out["priority"].square(), theirs["td_error"].squeeze(-1), rtol=0, atol=1e-5)
