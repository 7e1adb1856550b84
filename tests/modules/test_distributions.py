"""Distributions against PyTorch's and TorchRL's, and against sampling."""

import pytest
import torch
from torch import tensor
from torchrl.modules import TanhNormal as StockTanhNormal

from rlpipe.modules import Categorical, TanhNormal

LOW, HIGH = tensor([-2.0, 0.0]), tensor([2.0, 1.0])


def make_tanh_normal(batch=6):
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(batch, 2, generator=generator)
    std = 0.2 + torch.rand(batch, 2, generator=generator)
    return TanhNormal(mean, std, LOW, HIGH), mean, std


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
