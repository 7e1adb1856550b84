"""ReinforceLoss: numbers by hand, TorchRL's values and gradients, normalization, routing, and its messages."""

import math
from copy import deepcopy

import numpy as np
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
from torchrl.objectives import ReinforceLoss as StockReinforceLoss

from rlpipe.losses import ReinforceLoss
from rlpipe.modules import CategoricalActor, Critic

TERMS = {"loss_policy": "loss_actor", "loss_value": "loss_value"}


def make_loss(critic=True, **options):
    actor = CategoricalActor(make_network(3, 1), ACTIONS)
    return ReinforceLoss(actor, Critic(make_network(1, 2)) if critic else None, **options)


def batch_of_episodes(*shape, seed=0):
    """Steps of several episodes in no order, whose numbers are neither small nor positive only."""
    batch = random_batch(*shape, seed=seed)
    numbers = tensor([-7, 0, 3, 10**12])
    index = torch.randint(3, (*shape, 1), generator=torch.Generator().manual_seed(seed))
    batch["episode"] = numbers[index]
    # an episode of one step
    batch["episode"].view(-1)[0] = numbers[3]
    return batch


def test_numbers_by_hand():
    actor, critic = make_two_action_modules()
    out = ReinforceLoss(actor, critic, entropy_coefficient=0.1)(two_steps())
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


@pytest.mark.parametrize(
    ("normalize", "episode", "weights"),
    [
        ("none", [0, 0], [2.0, -1.0]),
        ("batch", [0, 1], [1.0, -1.0]),
        ("episode", [4, 4], [1.0, -1.0]),
        ("episode", [4, -4], [0.0, 0.0]),
    ],
)
def test_weights_by_hand(normalize, episode, weights):
    actor, _ = make_two_action_modules()
    batch = two_steps().set("episode", tensor(episode).unsqueeze(-1))
    out = ReinforceLoss(actor, normalize=normalize)(batch)
    expected = -(weights[0] * math.log(0.25) + weights[1] * math.log(0.75)) / 2
    assert out["loss_policy"].item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("kind", "stock_kind"), [("mse", "l2"), ("smooth_l1", "smooth_l1")])
@pytest.mark.parametrize("shape", [(32,), (4, 8)])
def test_terms_and_gradients_equal_torchrl(kind, stock_kind, shape):
    batch = random_batch(*shape)
    # TorchRL's has no coefficients and no entropy
    ours = make_loss(value_kind=kind, value_coefficient=1.0)
    stock = StockReinforceLoss(*make_stock_modules(), loss_critic_type=stock_kind)
    actual, expected = ours(batch), stock(batch.clone())
    for mine, theirs in TERMS.items():
        torch.testing.assert_close(actual[mine], expected[theirs], rtol=0, atol=1e-5)
    sum(actual[key] for key in actual.keys() if key.startswith("loss_")).backward()
    sum(expected[key] for key in TERMS.values()).backward()
    check_gradients(ours.actor.network, stock.actor_network_params, "module.0.module.")
    check_gradients(ours.critic.network, stock.critic_network_params, "module.")


@pytest.mark.parametrize("normalize", ["none", "batch", "episode"])
def test_accepts_stock_modules(normalize):
    batch = batch_of_episodes(32)
    ours = make_loss(normalize=normalize)(batch)
    stock = ReinforceLoss(*make_stock_modules(), normalize=normalize)(batch)
    for key in ours.keys():
        torch.testing.assert_close(ours[key], stock[key], rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(32,), (4, 8)])
@pytest.mark.parametrize("seed", [0, 1])
def test_normalization_within_episodes_equals_a_plain_loop(shape, seed):
    batch = batch_of_episodes(*shape, seed=seed)
    weight, episode = batch["advantage"].double().numpy().copy(), batch["episode"].numpy()
    for number in np.unique(episode):
        inside = episode == number
        weight[inside] = (weight[inside] - weight[inside].mean()) / (weight[inside].std() + 1e-8)
    batch["by_hand"] = tensor(weight, dtype=torch.float32)
    actual = make_loss(normalize="episode", entropy_coefficient=0.2)(batch)
    expected = make_loss(entropy_coefficient=0.2)(batch.set("advantage", batch["by_hand"]))
    for key in actual.keys():
        torch.testing.assert_close(actual[key], expected[key], rtol=0, atol=1e-5)


def test_one_step_episodes_and_equal_weights_move_nothing():
    batch = batch_of_episodes(32)
    batch["episode"] = torch.arange(32).unsqueeze(-1)
    assert make_loss(normalize="episode")(batch)["loss_policy"] == 0.0
    batch["advantage"] = torch.full((32, 1), 2.5)
    for normalize in ("batch", "episode"):
        batch["episode"] = torch.zeros(32, 1, dtype=torch.int64)
        assert make_loss(normalize=normalize)(batch)["loss_policy"] == 0.0


def test_without_a_critic():
    batch = random_batch(32)
    with_critic = make_loss(entropy_coefficient=0.1)(batch)
    alone = make_loss(critic=False, entropy_coefficient=0.1)(batch.exclude("value_target"))
    assert set(with_critic.keys()) - set(alone.keys()) == {"loss_value", "explained_variance"}
    for key in alone.keys():
        torch.testing.assert_close(alone[key], with_critic[key])


@pytest.mark.parametrize(
    ("term", "reached", "unreached"),
    [("loss_policy", "actor", "critic"), ("loss_entropy", "actor", "critic"), ("loss_value", "critic", "actor")],
)
def test_each_term_reaches_its_own_network(term, reached, unreached):
    loss = make_loss(entropy_coefficient=0.1)
    loss(random_batch(32))[term].backward()
    assert all(parameter.grad is not None for parameter in getattr(loss, reached).parameters())
    assert all(parameter.grad is None for parameter in getattr(loss, unreached).parameters())


@pytest.mark.parametrize("normalize", ["none", "batch", "episode"])
def test_weights_and_diagnostics_take_no_gradient(normalize):
    batch = batch_of_episodes(32)
    batch["advantage"].requires_grad_()
    out = make_loss(normalize=normalize)(batch)
    sum(out[key] for key in out.keys() if key.startswith("loss_")).backward()
    assert batch["advantage"].grad is None
    assert not any(out[key].requires_grad for key in ("entropy", "explained_variance"))


def test_a_coefficient_weighs_its_own_term_only():
    batch = random_batch(32)
    before = make_loss(value_coefficient=1.0, entropy_coefficient=1.0)(batch)
    after = make_loss(value_coefficient=3.0, entropy_coefficient=0.5)(batch)
    factors = dict.fromkeys(before.keys(), 1.0) | {"loss_value": 3.0, "loss_entropy": 0.5}
    for key, factor in factors.items():
        torch.testing.assert_close(after[key], factor * before[key])
    assert make_loss()(batch)["loss_entropy"] == 0.0


@pytest.mark.parametrize("normalize", ["none", "batch", "episode"])
def test_input_is_untouched_and_any_batch_shape_will_do(normalize, identical):
    loss = make_loss(normalize=normalize)
    batch = batch_of_episodes(4, 8)
    before = deepcopy(batch)
    folded = loss(batch)
    identical(batch, before)
    flat = loss(batch.reshape(-1))
    for key in flat.keys():
        torch.testing.assert_close(folded[key], flat[key])


@pytest.mark.parametrize("critic", [False, True])
@pytest.mark.parametrize("normalize", ["none", "episode"])
def test_out_keys_are_what_it_returns_and_in_keys_what_it_reads(critic, normalize):
    loss = make_loss(critic, normalize=normalize)
    out = loss(batch_of_episodes(32).select(*loss.in_keys))
    assert set(out.keys()) == set(loss.out_keys)
    assert set(loss.in_keys) >= {"observation", "action", "advantage"}
    assert ("value_target" in loss.in_keys) == critic
    assert ("episode" in loss.in_keys) == (normalize == "episode")


@pytest.mark.parametrize("key", ["advantage", "value_target", "episode"])
def test_messages_name_the_key_and_both_shapes(key):
    batch = batch_of_episodes(32)
    batch[key] = batch[key].squeeze(-1)
    loss = make_loss(normalize="episode")
    with pytest.raises(ValueError, match=rf"'{key}' has shape \[32\], expected \[32, 1\]"):
        loss(batch)
    with pytest.raises(KeyError, match=f"no key '{key}'; it has"):
        loss(batch.exclude(key))


def test_unknown_normalization():
    with pytest.raises(ValueError, match="normalize is 'returns'; allowed are 'none', 'batch', 'episode'"):
        make_loss(normalize="returns")
