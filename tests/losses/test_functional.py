"""Every equation against numbers worked out by hand."""

import math

import numpy as np
import pytest
import torch
from torch import tensor
from torchrl.objectives.value.functional import generalized_advantage_estimate, vec_generalized_advantage_estimate

from rlpipe.losses import functional as F

NO, YES = False, True


def close(actual, expected):
    torch.testing.assert_close(actual, tensor(expected), rtol=0, atol=1e-6)


def test_q_learning_target_takes_the_maximum_and_stops_at_termination():
    target = F.q_learning_target(tensor([1.0, 2.0]), tensor([0.5, 0.0]), tensor([[1.0, 3.0], [5.0, 7.0]]))
    close(target, [2.5, 2.0])


def test_double_q_learning_target_values_the_selectors_choice():
    selector = tensor([[2.0, 1.0], [0.0, 1.0]])
    values = tensor([[1.0, 3.0], [5.0, 7.0]])
    close(F.q_learning_target(tensor([1.0, 2.0]), tensor([0.5, 0.1]), values, selector), [1.5, 2.7])


def test_td_error():
    close(F.td_error(tensor([[1.0, 2.0], [3.0, 4.0]]), tensor([1, 0]), tensor([5.0, 1.0])), [3.0, -2.0])


def test_regression():
    zeros, target = torch.zeros(3), tensor([0.5, 2.0, -3.0])
    close(F.regression(zeros, target, "mse"), [0.25, 4.0, 9.0])
    close(F.regression(zeros, target, "smooth_l1"), [0.125, 1.5, 2.5])
    with pytest.raises(ValueError, match="kind is 'l2'; allowed are 'mse' and 'smooth_l1'"):
        F.regression(zeros, target, "l2")


def test_value_loss_clips_only_what_would_lower_the_loss():
    value, old = tensor([2.0, 2.0]), tensor([1.0, 1.0])
    close(F.value_loss(value, tensor([3.0, 0.0])), [1.0, 4.0])
    close(F.value_loss(value, tensor([3.0, 0.0]), old_value=old, clip=0.5), [2.25, 4.0])
    with pytest.raises(ValueError, match="clip needs old_value"):
        F.value_loss(value, old, clip=0.5)


REWARD, VALUE, HALF = [1.0, 2.0, 3.0], [1.0, 1.0, 1.0], [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("next_value", "discount", "done", "expected"),
    [
        pytest.param([1.0, 1.0, 2.0], HALF, [NO, NO, NO], [1.0625, 2.25, 3.0], id="unfinished"),
        pytest.param([1.0, 1.0, 2.0], [0.5, 0.0, 0.5], [NO, YES, NO], [0.75, 1.0, 3.0], id="terminated"),
        pytest.param([1.0, 5.0, 2.0], HALF, [NO, YES, NO], [1.375, 3.5, 3.0], id="truncated"),
    ],
)
def test_gae(next_value, discount, done, expected):
    close(F.gae(tensor(REWARD), tensor(VALUE), tensor(next_value), tensor(discount), tensor(done), 0.5), expected)


@pytest.mark.parametrize(
    ("discount", "done", "expected"),
    [
        pytest.param(HALF, [NO, NO, NO], [3.0, 4.0, 4.0], id="unfinished"),
        pytest.param([0.5, 0.0, 0.5], [NO, YES, NO], [2.0, 2.0, 4.0], id="terminated"),
        pytest.param(HALF, [NO, YES, NO], [4.25, 6.5, 4.0], id="truncated"),
    ],
)
def test_lambda_return_of_one_is_the_n_step_return(discount, done, expected):
    flags = tensor(done)
    close(F.lambda_return(tensor(REWARD), tensor([9.0, 9.0, 2.0]), tensor(discount), flags, 1.0), expected)
    assert flags.tolist() == done


def test_lambda_return_of_zero_is_the_one_step_target():
    close(
        F.lambda_return(tensor(REWARD), tensor([9.0, 9.0, 2.0]), tensor(HALF), tensor([NO] * 3), 0.0), [5.5, 6.5, 4.0]
    )


def test_lambda_return_is_gae_plus_value():
    reward, value, next_value, discount, done = random_rollout(17)
    next_value[:, :-1] = torch.where(done[:, :-1], next_value[:, :-1], value[:, 1:])
    advantage = F.gae(reward, value, next_value, discount, done, 0.7)
    torch.testing.assert_close(F.lambda_return(reward, next_value, discount, done, 0.7), advantage + value)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 1e-5)])
@pytest.mark.parametrize("lmbda", [0.3, 0.95])
def test_lambda_return_is_as_exact_as_its_numbers(dtype, tolerance, lmbda):
    reward, _, next_value, discount, done = random_rollout(129)
    given = [each.to(dtype) for each in (reward, next_value, discount)]
    reward, next_value, discount = (each.double().numpy() for each in given)
    expected = reward + discount * next_value
    for t in reversed(range(128)):
        later = np.where(done[:, t], next_value[:, t], (1 - lmbda) * next_value[:, t] + lmbda * expected[:, t + 1])
        expected[:, t] = reward[:, t] + discount[:, t] * later
    actual = F.lambda_return(*given, done, lmbda)
    assert actual.dtype == dtype
    np.testing.assert_allclose(actual.numpy(), expected, rtol=0, atol=tolerance)


def test_reward_to_go():
    close(F.reward_to_go(tensor(REWARD), tensor(HALF), tensor([NO, NO, NO])), [2.75, 3.5, 3.0])
    close(F.reward_to_go(tensor(REWARD), tensor(HALF), tensor([NO, YES, NO])), [2.0, 2.0, 3.0])


def random_rollout(steps, batch=5, gamma=0.9):
    generator = torch.Generator().manual_seed(steps)
    reward, value, next_value = torch.randn(3, batch, steps, generator=generator).unbind(0)
    terminated, truncated = (torch.rand(2, batch, steps, generator=generator) < 0.15).unbind(0)
    return reward, value, next_value, gamma * (~terminated), terminated | truncated


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8, 64, 129])
def test_gae_equals_a_plain_loop(steps):
    reward, value, next_value, discount, done = random_rollout(steps)
    expected, later = np.zeros(reward.shape), np.zeros(len(reward))
    for t in reversed(range(steps)):
        delta = (reward + discount * next_value - value)[:, t].numpy()
        later = delta + (discount * 0.8)[:, t].numpy() * ~done[:, t].numpy() * later
        expected[:, t] = later
    actual = F.gae(reward, value, next_value, discount, done, 0.8)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("stock", [generalized_advantage_estimate, vec_generalized_advantage_estimate])
def test_gae_equals_torchrl(stock):
    reward, value, next_value, discount, done = random_rollout(33)
    columns = [x.unsqueeze(-1) for x in (value, next_value, reward, done, discount == 0)]
    expected, _ = stock(0.9, 0.8, *columns)
    actual = F.gae(reward, value, next_value, discount, done, 0.8)
    torch.testing.assert_close(actual.unsqueeze(-1), expected, rtol=0, atol=1e-5)


def test_gae_takes_any_leading_shape():
    rollout = random_rollout(9, batch=6)
    flat = F.gae(*rollout, 0.8)
    folded = F.gae(*(x.reshape(2, 3, 9) for x in rollout), 0.8)
    assert torch.equal(folded.reshape(6, 9), flat)


def test_policy_gradient_holds_its_weight_constant():
    log_prob, weight = tensor([-1.0, -2.0], requires_grad=True), tensor([3.0, -0.5], requires_grad=True)
    loss = F.policy_gradient(log_prob, weight)
    close(loss.detach(), [3.0, -1.0])
    loss.sum().backward()
    close(log_prob.grad, [-3.0, 0.5])
    assert weight.grad is None


def test_clipped_surrogate_in_all_four_cases():
    ratio, advantage = tensor([1.5, 1.5, 0.5, 0.5]), tensor([2.0, -2.0, 2.0, -2.0])
    close(F.clipped_surrogate(ratio.log(), torch.zeros(4), advantage, 0.2), [-2.4, 3.0, -1.0, 1.6])


def test_surrogate():
    close(F.surrogate(tensor([1.5, 0.5]).log(), torch.zeros(2), tensor([2.0, -2.0])), [-3.0, 1.0])


def test_approximate_kl():
    ratio = tensor([2.0, 0.5, 1.0])
    close(F.approximate_kl(ratio.log(), torch.zeros(3)), [1 - math.log(2), math.log(2) - 0.5, 0.0])


def test_approximate_kl_is_unbiased_under_the_old_policy():
    old, new = tensor([0.2, 0.8]), tensor([0.5, 0.5])
    expected = (old * (old / new).log()).sum()
    torch.testing.assert_close((old * F.approximate_kl(new.log(), old.log())).sum(), expected)


def test_explained_variance():
    target = tensor([1.0, 2.0, 3.0])
    close(F.explained_variance(target, target), 1.0)
    close(F.explained_variance(torch.zeros(3), target), 0.0)
    close(F.explained_variance(target.flip(0), target), -3.0)
    close(F.explained_variance(target, torch.ones(3)), 0.0)


def test_targets_of_several_critics():
    reward, discount = tensor([1.0, 1.0]), tensor([0.5, 0.0])
    values = tensor([[4.0, 2.0], [7.0, 9.0]])
    assert F.clipped_double_q_target(reward, discount, values).tolist() == [2.0, 1.0]
    # the entropy is worth a quarter of 4
    assert F.soft_q_target(reward, discount, values, tensor([4.0, 4.0]), 0.25).tolist() == [1.5, 1.0]


def test_losses_of_a_soft_policy_and_its_temperature():
    log_prob = tensor([2.0, -1.0], requires_grad=True)
    assert F.soft_policy_loss(log_prob, tensor([[4.0, 3.0], [1.0, 5.0]]), 0.5).tolist() == [-2.0, -1.5]
    log_alpha = tensor(0.5, requires_grad=True)
    loss = F.temperature_loss(log_alpha, log_prob, -3.0)
    assert loss.tolist() == [0.5, 2.0]
    loss.sum().backward()
    # the temperature rises where the policy has too little entropy
    assert log_alpha.grad.item() == 5.0
    assert log_prob.grad is None


def test_a_smoothed_action_stays_near_and_within_the_bounds():
    action, noise = tensor([[0.0, 0.0], [0.9, -1.9]]), tensor([[0.3, -9.0], [0.4, -0.2]])
    clip, low, high = tensor([0.5, 1.0]), tensor([-1.0, -2.0]), tensor([1.0, 2.0])
    assert F.smoothed_action(action, noise, clip, low, high).tolist() == [
        [pytest.approx(0.3), -1.0],
        [1.0, -2.0],
    ]
