"""A2CLoss: numbers by hand, TorchRL's values and gradients, what gradients reach, and its messages."""

import math
from copy import deepcopy

import pytest
import torch
from small_losses import (
    ACTIONS,
    check_gradients,
    make_network,
    make_stock_modules,
    make_two_action_modules,
    random_batch,
    two_steps,
)
from torch import tensor
from torchrl.data import Bounded
from torchrl.objectives import A2CLoss as StockA2CLoss

from rlpipe.losses import A2CLoss
from rlpipe.modules import CategoricalActor, Critic, GaussianActor

TERMS = {"loss_policy": "loss_objective", "loss_value": "loss_critic", "loss_entropy": "loss_entropy"}


def make_loss(**options):
    actor = CategoricalActor(make_network(3, 1), ACTIONS)
    return A2CLoss(actor, Critic(make_network(1, 2)), **options)


def test_numbers_by_hand():
    actor, critic = make_two_action_modules()
    loss = A2CLoss(actor, critic, entropy_coefficient=0.1)
    out = loss(two_steps())
    entropy = 0.25 * math.log(4.0) - 0.75 * math.log(0.75)
    expected = {
        "loss_policy": (2.0 * math.log(4.0) + math.log(0.75)) / 2,
        "loss_value": 0.5 * (3.0**2 + 0.0) / 2,
        "loss_entropy": -0.1 * entropy,
        "entropy": entropy,
        # 1 - 2.25 / 1: the variances of the error and of the target
        "explained_variance": -1.25,
    }
    assert {key: value.item() for key, value in out.items()} == pytest.approx(expected, abs=1e-6)
    (out["loss_policy"] + out["loss_value"]).backward()
    # the mean of -2 * ([1, 0] - p) and 1 * ([0, 1] - p)
    torch.testing.assert_close(actor.network.bias.grad, tensor([-0.875, 0.875]))
    torch.testing.assert_close(critic.network.bias.grad, tensor([-1.5]))


def test_normalized_advantage_by_hand():
    out = A2CLoss(*make_two_action_modules(), normalize_advantage=True)(two_steps())
    # 2 and -1 become 1 and -1
    assert out["loss_policy"].item() == pytest.approx((math.log(4.0) + math.log(0.75)) / 2, abs=1e-6)


@pytest.mark.parametrize(("kind", "stock_kind"), [("mse", "l2"), ("smooth_l1", "smooth_l1")])
@pytest.mark.parametrize("shape", [(32,), (4, 8)])
def test_terms_and_gradients_equal_torchrl(kind, stock_kind, shape):
    batch = random_batch(*shape)
    ours = make_loss(value_kind=kind, value_coefficient=0.7, entropy_coefficient=0.03)
    stock = StockA2CLoss(*make_stock_modules(), critic_coeff=0.7, entropy_coeff=0.03, loss_critic_type=stock_kind)
    actual, expected = ours(batch), stock(batch)
    for mine, theirs in {**TERMS, "entropy": "entropy"}.items():
        torch.testing.assert_close(actual[mine], expected[theirs], rtol=0, atol=1e-5)
    sum(actual[key] for key in TERMS).backward()
    sum(expected[key] for key in TERMS.values()).backward()
    check_gradients(ours.actor.network, stock.actor_network_params, "module.0.module.")
    check_gradients(ours.critic.network, stock.critic_network_params, "module.")


def test_accepts_stock_modules():
    batch = random_batch(32)
    ours, stock = make_loss()(batch), A2CLoss(*make_stock_modules())(batch)
    for key in ours.keys():
        torch.testing.assert_close(ours[key], stock[key], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("term", "reached", "unreached"),
    [("loss_policy", "actor", "critic"), ("loss_entropy", "actor", "critic"), ("loss_value", "critic", "actor")],
)
def test_each_term_reaches_its_own_network(term, reached, unreached):
    loss = make_loss()
    loss(random_batch(32))[term].backward()
    assert all(parameter.grad is not None for parameter in getattr(loss, reached).parameters())
    assert all(parameter.grad is None for parameter in getattr(loss, unreached).parameters())


@pytest.mark.parametrize("normalize", [False, True])
def test_advantage_and_diagnostics_take_no_gradient(normalize):
    batch = random_batch(32)
    batch["advantage"].requires_grad_()
    out = make_loss(normalize_advantage=normalize)(batch)
    sum(out[key] for key in TERMS).backward()
    assert batch["advantage"].grad is None
    assert not any(out[key].requires_grad for key in ("entropy", "explained_variance"))


def test_a_coefficient_weighs_its_own_term_only():
    batch = random_batch(32)
    before = make_loss(value_coefficient=1.0, entropy_coefficient=1.0)(batch)
    after = make_loss(value_coefficient=3.0, entropy_coefficient=0.5)(batch)
    factors = dict.fromkeys(before.keys(), 1.0) | {"loss_value": 3.0, "loss_entropy": 0.5}
    for key, factor in factors.items():
        torch.testing.assert_close(after[key], factor * before[key])


def test_input_is_untouched_and_any_batch_shape_will_do(identical):
    loss = make_loss(normalize_advantage=True)
    batch = random_batch(4, 8)
    before = deepcopy(batch)
    folded = loss(batch)
    identical(batch, before)
    flat = loss(batch.reshape(-1))
    for key in flat.keys():
        torch.testing.assert_close(folded[key], flat[key])


def test_out_keys_are_what_it_returns_and_in_keys_what_it_reads():
    loss = make_loss()
    out = loss(random_batch(32).select(*loss.in_keys))
    assert list(out.keys()) == loss.out_keys
    assert set(loss.in_keys) == {"observation", "action", "advantage", "value_target"}


def test_box_actions():
    actor = GaussianActor(make_network(2, 1), Bounded(-2.0, 2.0, (32, 2)))
    batch = actor(random_batch(32)).detach()
    out = A2CLoss(actor, Critic(make_network(1, 2)))(batch)
    torch.testing.assert_close(
        out["loss_policy"].detach(), -(batch["action_log_prob"].unsqueeze(-1) * batch["advantage"]).mean()
    )
    (out["loss_policy"] + out["loss_entropy"]).backward()
    assert all(parameter.grad.isfinite().all() for parameter in actor.parameters())


@pytest.mark.parametrize("key", ["advantage", "value_target"])
def test_messages_name_the_key_and_both_shapes(key):
    batch = random_batch(32)
    batch[key] = batch[key].squeeze(-1)
    with pytest.raises(ValueError, match=rf"'{key}' has shape \[32\], expected \[32, 1\]"):
        make_loss()(batch)
    with pytest.raises(KeyError, match=f"no key '{key}'; it has"):
        make_loss()(batch.exclude(key))


def test_messages_about_what_the_networks_give():
    batch = random_batch(32)
    loss = A2CLoss(CategoricalActor(make_network(3, 1), ACTIONS), Critic(make_network(2, 2)))
    with pytest.raises(ValueError, match=r"'state_value' has shape \[32, 2\], expected \[32, 1\]"):
        loss(batch)
    batch["action"] = batch["action"].unsqueeze(-1)
    with pytest.raises(
        ValueError, match=r"'action' of shape \[32, 1\] .* log-probability has shape \[32, 32\], expected \[32\]"
    ):
        A2CLoss(*make_stock_modules())(batch)
    with pytest.raises(KeyError, match="no key 'action'; it has"):
        make_loss()(batch.exclude("action"))
