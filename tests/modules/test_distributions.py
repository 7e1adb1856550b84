"""Distributions against PyTorch's and TorchRL's, and against sampling."""

import math

import pytest
import torch
from torch import tensor
from torchrl.modules import TanhNormal as StockTanhNormal

from rlpipe.modules import BoxNormal, Categorical, TanhNormal

LOW, HIGH = tensor([-2.0, 0.0]), tensor([2.0, 1.0])


def make_tanh_normal(batch=6):
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(batch, 2, generator=generator)
    std = 0.2 + torch.rand(batch, 2, generator=generator)
    return TanhNormal(mean, std, LOW, HIGH), mean, std


def test_entropy_by_hand():
    logits = tensor([[0.0, 0.0], [-math.inf, 0.0], [math.log(3.0), 0.0]], requires_grad=True)
    entropy = Categorical(logits).entropy()
    torch.testing.assert_close(
        entropy.detach(), tensor([math.log(2), 0.0, 0.25 * math.log(4) + 0.75 * math.log(4 / 3)])
    )
    entropy.sum().backward()
    assert logits.grad.isfinite().all()


def test_categorical_equals_pytorchs():
    logits = torch.randn(7, 4)
    ours, theirs = Categorical(logits), torch.distributions.Categorical(logits=logits)
    action = tensor([0, 1, 2, 3, 0, 1, 2])
    torch.testing.assert_close(ours.log_prob(action), theirs.log_prob(action))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    assert torch.equal(ours.mode, theirs.mode)
    other = torch.distributions.Categorical(logits=torch.randn(7, 4))
    kl = torch.distributions.kl_divergence
    torch.testing.assert_close(kl(ours, other), kl(theirs, other))


def test_categorical_draws_what_it_says():
    probabilities = tensor([0.1, 0.6, 0.3])
    distribution = Categorical(probabilities.log().expand(20_000, 3))
    drawn = distribution.draw(torch.Generator().manual_seed(0))
    frequencies = torch.bincount(drawn, minlength=3) / len(drawn)
    # five standard errors at most
    torch.testing.assert_close(frequencies, probabilities, rtol=0, atol=0.018)
    assert torch.equal(drawn, distribution.draw(torch.Generator().manual_seed(0)))


def test_tanh_normal_log_prob_equals_torchrl():
    distribution, mean, std = make_tanh_normal()
    stock = StockTanhNormal(mean, std, low=LOW, high=HIGH)
    action = distribution.draw(torch.Generator().manual_seed(1))
    torch.testing.assert_close(distribution.log_prob(action), stock.log_prob(action), rtol=0, atol=1e-4)


def test_tanh_normal_density_integrates_to_one():
    distribution = TanhNormal(tensor([[0.4]]), tensor([[0.7]]), tensor([-2.0]), tensor([2.0]))
    grid = torch.linspace(-1.9999, 1.9999, 20_001)
    density = distribution.log_prob(grid.reshape(-1, 1)).exp()
    assert torch.trapezoid(density, grid).item() == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("mean", [0.0, 1.5])
@pytest.mark.parametrize(("std", "tolerance"), [(0.1, 0.01), (1.0, 0.01), (3.0, 0.04)])
def test_tanh_normal_entropy_equals_minus_the_mean_log_prob(mean, std, tolerance):
    many = torch.ones(400_000, 1)
    distribution = TanhNormal(mean * many, std * many, tensor([-2.0]), tensor([2.0]))
    sampled = -distribution.log_prob(distribution.draw(torch.Generator().manual_seed(0))).mean()
    assert distribution.entropy()[0].item() == pytest.approx(sampled.item(), abs=tolerance)


def test_tanh_normal_stays_within_bounds_and_finite_at_them():
    distribution = TanhNormal(tensor([[50.0, -50.0]]), tensor([[1.0, 1.0]]), LOW, HIGH)
    action = distribution.mode
    assert torch.equal(action, tensor([[2.0, 0.0]]))
    assert distribution.log_prob(action).isfinite().all()


def test_tanh_normal_gradients_reach_mean_and_std():
    mean, std = torch.zeros(3, 2, requires_grad=True), torch.ones(3, 2, requires_grad=True)
    distribution = TanhNormal(mean, std, LOW, HIGH)
    action = distribution.draw(torch.Generator().manual_seed(2)).detach()
    (distribution.log_prob(action).sum() + distribution.entropy().sum()).backward()
    assert mean.grad.isfinite().all()
    assert (std.grad != 0).all()


def test_a_reparameterised_action_comes_with_its_log_probability():
    distribution, _, _ = make_tanh_normal()
    torch.manual_seed(3)
    action, log_prob = distribution.rsample_and_log_prob()
    assert (action.shape, log_prob.shape) == ((6, 2), (6,))
    torch.testing.assert_close(log_prob, distribution.log_prob(action), atol=1e-4, rtol=1e-4)
    torch.manual_seed(3)
    assert torch.equal(distribution.rsample(), action)


def test_its_gradient_is_right_where_the_action_is_at_its_bound():
    # far out, log p(a) = -log std - u^2 / 2 - log slope with a slope of 4 exp(-2 u), so that d log p / d mean = 2
    mean, std = torch.full((5, 1), 12.0, requires_grad=True), torch.ones(5, 1)
    _, log_prob = TanhNormal(mean, std, tensor([-1.0]), tensor([1.0])).rsample_and_log_prob()
    log_prob.sum().backward()
    torch.testing.assert_close(mean.grad, torch.full((5, 1), 2.0))


INF = float("inf")


@pytest.mark.parametrize(
    ("low", "high", "grid"),
    [
        (0.0, INF, torch.linspace(1e-5, 12.0, 40_001)),
        (-INF, 3.0, torch.linspace(-9.0, 3.0 - 1e-5, 40_001)),
        (-INF, INF, torch.linspace(-8.0, 8.0, 20_001)),
        (-2.0, 2.0, torch.linspace(-1.9999, 1.9999, 20_001)),
    ],
)
def test_each_side_of_a_box_has_a_density_that_integrates_to_one(low, high, grid):
    distribution = BoxNormal(tensor([[0.4]]), tensor([[0.7]]), tensor([low]), tensor([high]))
    density = distribution.log_prob(grid.reshape(-1, 1)).exp()
    assert torch.trapezoid(density, grid).item() == pytest.approx(1.0, abs=2e-3)
    many = torch.ones(400_000, 1)
    wide = BoxNormal(0.4 * many, 0.7 * many, tensor([low]), tensor([high]))
    drawn = wide.draw(torch.Generator().manual_seed(0))
    assert ((drawn >= low) & (drawn <= high)).all()
    assert wide.entropy()[0].item() == pytest.approx(-wide.log_prob(drawn).mean().item(), abs=0.01)


def test_between_bounds_a_box_is_a_tanh_normal():
    plain, mean, std = make_tanh_normal()
    box = BoxNormal(mean, std, LOW, HIGH)
    action = plain.draw(torch.Generator().manual_seed(0))
    assert torch.equal(box.draw(torch.Generator().manual_seed(0)), action)
    assert torch.equal(box.log_prob(action), plain.log_prob(action))
    assert torch.equal(box.entropy(), plain.entropy())


def test_a_dimension_of_equal_bounds_says_nothing():
    mean, std = torch.zeros(5, 2, requires_grad=True), torch.ones(5, 2, requires_grad=True)
    both = BoxNormal(mean, std, tensor([-1.0, 2.0]), tensor([1.0, 2.0]))
    alone = TanhNormal(mean[:, :1], std[:, :1], tensor([-1.0]), tensor([1.0]))
    action = both.draw(torch.Generator().manual_seed(0)).detach()
    assert (action[:, 1] == 2).all()
    torch.testing.assert_close(both.log_prob(action), alone.log_prob(action[:, :1]))
    torch.testing.assert_close(both.entropy(), alone.entropy())
    (both.log_prob(action) + both.entropy()).sum().backward()
    assert not mean.grad[:, 1].any()
    assert not std.grad[:, 1].any()


def test_bounds_at_the_end_of_float32_are_no_trouble():
    largest = torch.finfo(torch.float32).max
    mean = torch.tensor([[0.3]], requires_grad=True)
    distribution = TanhNormal(mean, torch.ones(1, 1), tensor([-largest]), tensor([largest]))
    action = distribution.draw(torch.Generator().manual_seed(0)).detach()
    assert action.isfinite().all()
    (distribution.log_prob(action) + distribution.entropy()).sum().backward()
    assert mean.grad.isfinite().all()


def test_joint_draws_of_a_sample_shape_are_those_of_log_prob():
    mean, bound = torch.zeros(3, 2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    distribution = TanhNormal(mean, torch.full_like(mean, 0.3), -bound, bound)
    action, log_prob = distribution.rsample_and_log_prob((5,))
    assert action.shape == (5, 3, 2)
    torch.testing.assert_close(log_prob, distribution.log_prob(action))
    assert len(action.unique()) == action.numel()
