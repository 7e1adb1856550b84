"""The equations: tensors in, per-sample tensors out, no network and no reduction.

Shapes: `[*B]` stands for any leading batch shape, `A` for the number of actions. In functions over time the last
dimension is time, `[*B, T]`. `discount` is `gamma * (1 - terminated)` everywhere, so that no equation sees a done flag
where it must not: termination cuts the bootstrap, `done` (terminated or truncated) cuts the trace.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from rlpipe.kinds import Regression


def q_learning_target(
    reward: Tensor, discount: Tensor, next_action_value: Tensor, selector: Tensor | None = None
) -> Tensor:
    """Q-learning target `[*B]`, `r + discount * Q(s', argmax_a S(s', a))`.

    Without `selector`, S is `next_action_value` itself: the maximum of Mnih et al. 2015, Algorithm 1. With the online
    network's values as `selector` and the target network's as `next_action_value` it is Double DQN, van Hasselt et al.
    2016, equation 4. Values are `[*B, A]`, the rest `[*B]`.
    """
    if selector is None:
        return reward + discount * next_action_value.amax(-1)
    return reward + discount * chosen_value(next_action_value, selector.argmax(-1))


def sarsa_target(reward: Tensor, discount: Tensor, next_action_value: Tensor, next_action: Tensor) -> Tensor:
    """SARSA target `[*B]`, `r + discount * Q(s', a')`, Sutton and Barto 2018, equation 6.7.

    `next_action_value` is `[*B, A]`, the rest `[*B]`; `next_action` are integers.
    """
    return reward + discount * chosen_value(next_action_value, next_action)


def clipped_double_q_target(reward: Tensor, discount: Tensor, next_action_value: Tensor) -> Tensor:
    """Target of several critics `[*B]`, `r + discount * min_i Q_i(s', a')`, Fujimoto et al. 2018, equation 10.

    `next_action_value` has the value of each critic, `[*B, C]`; the rest is `[*B]`.
    """
    return reward + discount * next_action_value.amin(-1)


def soft_q_target(
    reward: Tensor, discount: Tensor, next_action_value: Tensor, next_log_prob: Tensor, alpha: Tensor | float
) -> Tensor:
    """Soft target of several critics `[*B]`, `r + discount * (min_i Q_i(s', a') - alpha log pi(a'|s'))`.

    Haarnoja et al. 2018 (arXiv:1812.05905), equations 2 and 3, with the smaller of the critics. `next_action_value` is
    `[*B, C]`, `alpha`, the temperature, a number, the rest `[*B]`.
    """
    return reward + discount * (next_action_value.amin(-1) - alpha * next_log_prob)


def soft_policy_loss(log_prob: Tensor, action_value: Tensor, alpha: Tensor | float) -> Tensor:
    """The actor's loss `[*B]`, `alpha log pi(a|s) - min_i Q_i(s, a)`, Haarnoja et al. 2018, equation 9.

    `action_value` is `[*B, C]`, of actions that depend on the policy's parameters; `log_prob` is `[*B]`.
    """
    return alpha * log_prob - action_value.amin(-1)


def temperature_loss(log_alpha: Tensor, log_prob: Tensor, target_entropy: Tensor | float) -> Tensor:
    """The temperature's loss `[*B]`, `-log alpha (log pi(a|s) + target_entropy)`, Haarnoja et al. 2018, equation 18.

    With the logarithm of `alpha`, a scalar, in place of `alpha`, as in the authors' code; `log_prob` `[*B]` is a
    constant to the gradient.
    """
    return -log_alpha * (log_prob.detach() + target_entropy)


def smoothed_action(action: Tensor, noise: Tensor, clip: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """A target action with clipped noise `[*B, *D]`, Fujimoto et al. 2018, equation 14: target policy smoothing.

    `action` and `noise` are `[*B, *D]`; `clip`, the largest noise, and the bounds `low` and `high` are `[*D]`.
    """
    return (action + torch.minimum(torch.maximum(noise, -clip), clip)).clamp(low, high)


def chosen_value(action_value: Tensor, action: Tensor) -> Tensor:
    """`Q(s, a)` for `action_value` `[*B, A]` and integer `action` `[*B]`, as `[*B]`."""
    return action_value.gather(-1, action.unsqueeze(-1)).squeeze(-1)


def td_error(action_value: Tensor, action: Tensor, target: Tensor) -> Tensor:
    """Temporal-difference error `[*B]`, `target - Q(s, a)`, Sutton and Barto 2018, equation 6.5.

    `action_value` is `[*B, A]`, `target` and the integer `action` `[*B]`.
    """
    return target - chosen_value(action_value, action)


def quantile_target(reward: Tensor, discount: Tensor, next_quantiles: Tensor, selector: Tensor) -> Tensor:
    """Quantiles of the return `[*B, N]`, `r + discount * theta(s', argmax_a S(s', a))`.

    Dabney et al. 2018 ("Distributional reinforcement learning with quantile regression"), Algorithm 1, for each theta.

    `next_quantiles` is `[*B, A, N]`. `selector` `[*B, A]`, S, is the mean of these quantiles over the allowed actions;
    or for Double DQN that of the online network's. The rest is `[*B]`.
    """
    return reward.unsqueeze(-1) + discount.unsqueeze(-1) * chosen_quantiles(next_quantiles, selector.argmax(-1))


def chosen_quantiles(quantiles: Tensor, action: Tensor) -> Tensor:
    """`theta(s, a)` for `quantiles` `[*B, A, N]` and integer `action` `[*B]`, as `[*B, N]`."""
    return quantiles.take_along_dim(action.unsqueeze(-1).unsqueeze(-1), -2).squeeze(-2)


def quantile_huber(quantiles: Tensor, target: Tensor, kappa: float | Tensor = 1.0) -> Tensor:
    """Quantile Huber loss `[*B]`, Dabney et al. 2018, equations 9 and 10, summed as in their Algorithm 1.

    `sum_i mean_j |tau_i - 1{u < 0}| L(u) / kappa` with `u = target_j - quantiles_i`, `tau_i = (2 i + 1) / (2 N)` for i
    from 0, and the Huber function `L(u)`: `0.5 u^2` up to `|u| = kappa`, `kappa (|u| - 0.5 kappa)` beyond.

    Dividing by kappa, as Dabney et al. 2018b ("Implicit quantile networks"), equation 3, do, changes nothing at 1. So
    a small kappa gives the quantile regression loss, equation 8.

    The targets are sorted, so that the sum over them is a polynomial in the quantile, whose coefficients are
    differences of running sums. The table of all pairs would take more time and memory, with 200 quantiles many times.

    Args:
        quantiles: of the return, one for each `tau_i`, `[*B, N]`.
        target: samples of the return, or its quantiles, in any order, `[*B, M]`; no gradient flows into it.
        kappa: above 0, in units of return.
    """
    n, m = quantiles.shape[-1], target.shape[-1]
    tau = (torch.arange(n, device=quantiles.device, dtype=torch.float64) + 0.5) / n
    # in units of kappa; float64 because of the differences
    theta = quantiles.double() / kappa
    with torch.no_grad():
        each = (target.double() / kappa).sort(-1).values
        # how many targets, their sum and that of their squares, up to the edges of the parabola and its middle
        sums = F.pad(torch.stack([torch.ones_like(each), each, each.square()], -2).cumsum(-1), (1, 0))
        places = torch.searchsorted(each, torch.cat([theta - 1.0, theta, theta + 1.0], -1))
        until = sums.gather(-1, places.unsqueeze(-2).expand(*places.shape[:-1], 3, -1)).unflatten(-1, (3, n))
        # [*B, 3, N] each: count, sum, sum of squares
        far_below, middle, upper = until[..., 0, :], until[..., 1, :], until[..., 2, :]
        near_below, near_above, far_above = middle - far_below, upper - middle, sums[..., -1:] - upper
    below = _half_squares(theta, near_below) + (theta - 0.5) * far_below[..., 0, :] - far_below[..., 1, :]
    above = _half_squares(theta, near_above) - (theta + 0.5) * far_above[..., 0, :] + far_above[..., 1, :]
    return (kappa / m * ((1.0 - tau) * below + tau * above).sum(-1)).to(quantiles.dtype)


def _half_squares(theta: Tensor, sums: Tensor) -> Tensor:
    """Sum of `(theta - x)^2 / 2` over numbers x of which `sums` `[*B, 3, N]` has count, sum and sum of squares."""
    return theta * (0.5 * theta * sums[..., 0, :] - sums[..., 1, :]) + 0.5 * sums[..., 2, :]


def categorical_projection(probability: Tensor, reward: Tensor, discount: Tensor, atoms: Tensor) -> Tensor:
    """Distribution of `r + discount * Z(s')` over the atoms that Z is over, Bellemare et al. 2017, equation 7.

    Each atom is shifted and clamped to the grid, and its probability is divided between its two neighbours there in
    proportion to nearness. Where `discount` is 0, all probability goes to the reward.

    Args:
        probability: of each atom in the next state, `[*B, N]`.
        reward: `[*B]`.
        discount: `[*B]`.
        atoms: the values, ascending and equally spaced, `[N]` with N of 2 or more.

    Returns:
        `[*B, N]`; sums to what `probability` does.
    """
    shifted = reward.unsqueeze(-1) + discount.unsqueeze(-1) * atoms
    shifted = torch.minimum(torch.maximum(shifted, atoms[0]), atoms[-1])
    spacing = (atoms[-1] - atoms[0]) / (len(atoms) - 1)
    # [*B, N, N]: the share that each atom of the grid has in each shifted one
    share = (1.0 - (shifted.unsqueeze(-2) - atoms.unsqueeze(-1)).abs() / spacing).clamp_min(0.0)
    return (share @ probability.unsqueeze(-1)).squeeze(-1)


def regression(prediction: Tensor, target: Tensor, kind: Regression = "mse") -> Tensor:
    """Distance of a prediction from its target, both `[*B]`, element by element, `[*B]`.

    `mse` is `(target - prediction)^2`; `smooth_l1` is the Huber function with threshold 1, `0.5 e^2` for `|e| < 1` and
    `|e| - 0.5` beyond (Huber 1964; the error clipping of Mnih et al. 2015). Both as PyTorch defines them.

    Raises:
        ValueError: for any other `kind`.
    """
    if kind == "mse":
        return F.mse_loss(prediction, target, reduction="none")
    if kind == "smooth_l1":
        return F.smooth_l1_loss(prediction, target, reduction="none")
    raise ValueError(f"kind is {kind!r}; allowed are 'mse' and 'smooth_l1'")


def value_loss(
    value: Tensor,
    target: Tensor,
    kind: Regression = "mse",
    old_value: Tensor | None = None,
    clip: float | None = None,
) -> Tensor:
    """Regression of a value on its target, `[*B]`, optionally with PPO's value clipping.

    With `clip`, the larger of the loss at `value` and the loss at `old_value + clamp(value - old_value, -clip, clip)`:
    the form of OpenAI's PPO2 code (Engstrom et al. 2020, section 3), which the PPO paper does not have.

    Args:
        value: `[*B]`.
        target: `[*B]`.
        kind: see `regression`.
        old_value: value at collection, `[*B]`; needed when `clip` is given.
        clip: largest step of the value that lowers the loss, in units of return.

    Raises:
        ValueError: `clip` without `old_value`, or an unknown `kind`.
    """
    loss = regression(value, target, kind)
    if clip is None:
        return loss
    if old_value is None:
        raise ValueError("clip needs old_value, the value at collection; got None")
    clipped = old_value + (value - old_value).clamp(-clip, clip)
    return torch.maximum(loss, regression(clipped, target, kind))


def _suffix_sums(x: Tensor, decay: Tensor) -> Tensor:
    """Solve `y_t = x_t + decay_t * y_{t+1}` along the last dimension, with nothing after its end.

    Recursive doubling: after the pass with shift `s`, `y_t` covers `2 s` steps and `decay_t` their product. That is
    `log2(T)` tensor operations on any device, where the plain recursion takes `T`.
    """
    total = x.clone()
    shift, length = 1, x.shape[-1]
    while shift < length:
        total[..., :-shift] += decay[..., : length - shift] * total[..., shift:]
        decay = decay[..., :-shift] * decay[..., shift:]
        shift *= 2
    return total


def gae(reward: Tensor, value: Tensor, next_value: Tensor, discount: Tensor, done: Tensor, lmbda: float) -> Tensor:
    """Generalized advantage estimation, `[*B, T]`, Schulman et al. 2016, equation 16.

    `A_t = delta_t + discount_t * lmbda * (1 - done_t) * A_{t+1}` with
    `delta_t = r_t + discount_t * V(s_{t+1}) - V(s_t)`; the last step has only its bootstrap.

    Args:
        reward: `[*B, T]`.
        value: `V(s_t)`, `[*B, T]`.
        next_value: `V(s_{t+1})` of the true next state, the one before any reset, `[*B, T]`.
        discount: `[*B, T]`.
        done: where the trace is cut, `[*B, T]`, bool.
        lmbda: 0 gives the one-step TD error, 1 the return minus the value.
    """
    delta = reward + discount * next_value - value
    return _suffix_sums(delta, discount * lmbda * (~done))


def lambda_return(reward: Tensor, next_value: Tensor, discount: Tensor, done: Tensor, lmbda: float) -> Tensor:
    """Lambda-return, `[*B, T]`, Sutton and Barto 2018, equation 12.18.

    `G_t = r_t + discount_t * ((1 - lmbda) * V(s_{t+1}) + lmbda * G_{t+1})`; where the trace is cut, and at the last
    step, `G_t = r_t + discount_t * V(s_{t+1})`. With `lmbda = 1` it is the n-step return to the rollout's end.

    Args:
        reward: `[*B, T]`.
        next_value: `V(s_{t+1})` of the true next state, `[*B, T]`.
        discount: `[*B, T]`.
        done: where the trace is cut, `[*B, T]`, bool.
        lmbda: between 0 and 1.
    """
    continues = ~done
    continues[..., -1] = False
    # a product of a number and a mask would have the default type, and be rounded to it
    dtype = functools.reduce(torch.promote_types, (each.dtype for each in (reward, next_value, discount)))
    weight = lmbda * continues.to(torch.promote_types(dtype, torch.get_default_dtype()))
    return _suffix_sums(reward + discount * (1.0 - weight) * next_value, discount * weight)


def reward_to_go(reward: Tensor, discount: Tensor, done: Tensor) -> Tensor:
    """Discounted return-to-go, `[*B, T]`, Sutton and Barto 2018, equation 3.9.

    `G_t = r_t + discount_t * (1 - done_t) * G_{t+1}`. No bootstrap: an episode that the rollout cuts off counts only to
    the cut. All are `[*B, T]`; `done`, bool, is where an episode ends.
    """
    return _suffix_sums(reward, discount * (~done))


def policy_gradient(log_prob: Tensor, weight: Tensor) -> Tensor:
    """Score-function loss `[*B]`, `-log pi(a|s) * weight`, Williams 1992.

    `weight` `[*B]` is a return or an advantage, and a constant to the gradient; `log_prob` is `[*B]`.
    """
    return -log_prob * weight.detach()


def surrogate(log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor) -> Tensor:
    """The importance-weighted surrogate as a loss, `[*B]`, Schulman et al. 2017, equation 6 (negated).

    `-ratio * A` with `ratio = exp(log_prob - old_log_prob)`, the policy that learns by the one that collected. All are
    `[*B]`.
    """
    return -(log_prob - old_log_prob).exp() * advantage


def clipped_surrogate(log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """PPO's clipped surrogate as a loss, `[*B]`, Schulman et al. 2017, equation 7 (negated).

    `-min(ratio * A, clamp(ratio, 1 - clip, 1 + clip) * A)`, where `clip` is the paper's epsilon; ratio and shapes are
    those of `surrogate`.
    """
    ratio = (log_prob - old_log_prob).exp()
    return -torch.minimum(ratio * advantage, ratio.clamp(1.0 - clip, 1.0 + clip) * advantage)


def approximate_kl(log_prob: Tensor, old_log_prob: Tensor) -> Tensor:
    """Estimate of `KL(old || new)` for each sample, `[*B]`: k3 of Schulman 2020, "Approximating KL divergence".

    `(ratio - 1) - log ratio` with `ratio = pi_new / pi_old`: unbiased under the old policy and never negative.
    Both are `[*B]`.
    """
    log_ratio = log_prob - old_log_prob
    return log_ratio.expm1() - log_ratio


def explained_variance(value: Tensor, target: Tensor) -> Tensor:
    """`1 - Var(target - value) / Var(target)` over all elements: a scalar, for diagnostics.

    1 is a perfect critic, 0 one no better than a constant, below 0 a worse one; 0 also when the target does not vary.
    """
    variance = target.var(correction=0)
    explained = 1.0 - (target - value).var(correction=0) / variance
    return torch.where(variance > 0, explained, torch.zeros_like(explained))
