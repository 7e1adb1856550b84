"""ClipPPOLoss: TorchRL's values and gradients, what gradients reach, and its messages."""

from copy import deepcopy

import pytest
import torch
from small_losses import ACTIONS, check_gradients, make_network, make_stock_modules, random_batch
from torch import nn
from torchrl.data import Bounded
from torchrl.objectives import ClipPPOLoss as StockClipPPOLoss

from rlpipe.losses import ClipPPOLoss
from rlpipe.modules import CategoricalActor, Critic, GaussianActor


def make_loss(**options):
    actor = CategoricalActor(make_network(3, 1), ACTIONS)
    return ClipPPOLoss(actor, Critic(make_network(1, 2)), **options)


@pytest.mark.parametrize("value_clip", [None, 0.3])
@pytest.mark.parametrize(("kind", "stock_kind"), [("mse", "l2"), ("smooth_l1", "smooth_l1")])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("clip", [0.2, 0.4])
def test_terms_and_gradients_equal_torchrl(value_clip, kind, stock_kind, normalize, clip):
    batch = random_batch(32)
    coefficients = {"value_coefficient": 0.7, "entropy_coefficient": 0.03}
    ours = make_loss(clip=clip, value_clip=value_clip, value_kind=kind, normalize_advantage=False, **coefficients)
    stock = StockClipPPOLoss(
        *make_stock_modules(),
        clip_epsilon=clip,
        critic_coeff=0.7,
        entropy_coeff=0.03,
        loss_critic_type=stock_kind,
        clip_value=value_clip,
        normalize_advantage=False,
    )
    stock_batch = batch.clone()
    if normalize:
        # TorchRL divides by the sample standard deviation, we by the population's
        ours.normalize_advantage = True
        advantage = batch["advantage"]
        stock_batch["advantage"] = (advantage - advantage.mean()) / (advantage.std(correction=0) + 1e-8)
    actual, expected = ours(batch), stock(stock_batch)
    pairs = {"loss_policy": "loss_objective", "loss_value": "loss_critic", "loss_entropy": "loss_entropy"}
    same = {"entropy": "entropy", "clip_fraction": "clip_fraction"}
    for mine, theirs in {**pairs, **same}.items():
        torch.testing.assert_close(actual[mine], expected[theirs], rtol=0, atol=1e-5)
    sum(actual[key] for key in pairs).backward()
    sum(expected[key] for key in pairs.values()).backward()
    check_gradients(ours.actor.network, stock.actor_network_params, "module.0.module.")
    check_gradients(ours.critic.network, stock.critic_network_params, "module.")


def test_accepts_stock_modules():
    batch = random_batch(32)
    ours, stock = make_loss()(batch), ClipPPOLoss(*make_stock_modules())(batch)
    for key in ours.keys():
        torch.testing.assert_close(ours[key], stock[key], rtol=0, atol=1e-6)


def test_at_collection_the_ratio_is_one():
    loss = make_loss(normalize_advantage=False)
    batch = random_batch(32)
    loss.actor(batch)
    batch["action_log_prob"] = batch["action_log_prob"].detach()
    out = loss(batch)
    assert out["approx_kl"] == 0.0
    assert out["clip_fraction"] == 0.0
    torch.testing.assert_close(out["loss_policy"].detach(), -batch["advantage"].mean())


@pytest.mark.parametrize(
    ("term", "reached", "unreached"),
    [("loss_policy", "actor", "critic"), ("loss_entropy", "actor", "critic"), ("loss_value", "critic", "actor")],
)
def test_each_term_reaches_its_own_network(term, reached, unreached):
    loss = make_loss(value_clip=0.2)
    loss(random_batch(32))[term].backward()
    assert all(parameter.grad is not None for parameter in getattr(loss, reached).parameters())
    assert all(parameter.grad is None for parameter in getattr(loss, unreached).parameters())


def test_a_shared_trunk_hears_both_and_is_counted_once():
    trunk, policy, value = make_network(None, 0), nn.Linear(16, 3), nn.Linear(16, 1)
    actor, critic = CategoricalActor(nn.Sequential(*trunk, policy), ACTIONS), Critic(nn.Sequential(*trunk, value))
    loss = ClipPPOLoss(actor, critic)
    assert len(list(loss.parameters())) == 6
    gradients = []
    for term in ("loss_policy", "loss_value"):
        loss.zero_grad()
        loss(random_batch(32))[term].backward()
        gradients.append(trunk[0].weight.grad.clone())
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_input_is_untouched_and_any_batch_shape_will_do(identical):
    loss = make_loss(value_clip=0.2)
    batch = random_batch(4, 8)
    before = deepcopy(batch)
    folded = loss(batch)
    identical(batch, before)
    flat = loss(batch.reshape(-1))
    for key in flat.keys():
        torch.testing.assert_close(folded[key], flat[key])


def test_out_keys_are_what_it_returns_and_in_keys_what_it_reads():
    loss = make_loss(value_clip=0.2)
    out = loss(random_batch(32).select(*loss.in_keys))
    assert set(out.keys()) == set(loss.out_keys)
    assert "state_value" not in make_loss().in_keys


def test_box_actions():
    spec = Bounded(-2.0, 2.0, (32, 2))
    actor = GaussianActor(make_network(2, 1), spec)
    loss = ClipPPOLoss(actor, Critic(make_network(1, 2)))
    batch = actor(random_batch(32).exclude("action", "action_log_prob")).detach()
    out = loss(batch)
    assert abs(float(out["approx_kl"])) < 1e-6
    (out["loss_policy"] + out["loss_entropy"]).backward()
    assert all(parameter.grad.isfinite().all() for parameter in actor.parameters())


def test_messages():
    loss = make_loss()
    flat = random_batch(32)
    flat["advantage"] = flat["advantage"].squeeze(-1)
    with pytest.raises(ValueError, match=r"'advantage' has shape \[32\], expected \[32, 1\]"):
        loss(flat)
    column = random_batch(32)
    column["action_log_prob"] = column["action_log_prob"].unsqueeze(-1)
    with pytest.raises(ValueError, match=r"'action_log_prob' has shape \[32, 1\]"):
        loss(column)
    with pytest.raises(KeyError, match="no key 'value_target'; it has"):
        loss(random_batch(32).exclude("value_target"))
