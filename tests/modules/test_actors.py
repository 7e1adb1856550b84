"""Actors: what they write, when they explore, which actions they may take, and what they refuse."""

import itertools

import pytest
import torch
from tensordict import TensorDict
from torch import nn
from torchrl.data import Bounded, Categorical, Unbounded
from torchrl.envs.utils import ExplorationType, set_exploration_type

from rlpipe.modules import (
    MLP,
    BoxNormal,
    CategoricalActor,
    Critic,
    DeterministicActor,
    GaussianActor,
    QActor,
    TanhNormal,
    only_allowed,
)

DISCRETE = Categorical(3, (64,))
# every mask of three actions, under every order of their scores
MASKS = torch.tensor(list(itertools.product([False, True], repeat=3))).repeat_interleave(6, 0)
SCORES = torch.tensor(list(itertools.permutations([-1.0, 0.5, 2.0]))).repeat(8, 1)
BOX = Bounded(torch.tensor([[-2.0, 0.0]] * 64), torch.tensor([[2.0, 1.0]] * 64), (64, 2))


def observations():
    return TensorDict({"observation": torch.randn(64, 4, generator=torch.Generator().manual_seed(0))}, [64])


def make(kind):
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(7)
    if kind == "categorical":
        return CategoricalActor(MLP(4, 3, (8,)), DISCRETE, generator)
    return GaussianActor(MLP(4, 2, (8,)), BOX, generator)


def test_q_actor_is_greedy():
    actor = QActor(MLP(4, 3, (8,)), DISCRETE)
    out = actor(observations())
    assert out["action_value"].shape == (64, 3)
    assert torch.equal(out["action"], out["action_value"].argmax(-1))
    assert torch.equal(out["chosen_action_value"], out["action_value"].amax(-1, keepdim=True))
    assert set(actor.out_keys) == set(out.keys()) - {"observation"}


@pytest.mark.parametrize("kind", ["categorical", "gaussian"])
def test_stochastic_actors_explore_under_random_only(kind):
    actor = make(kind)
    mode = actor.get_dist(observations()).mode
    assert torch.equal(actor(observations())["action"], mode)
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        assert torch.equal(actor(observations())["action"], mode)
    with set_exploration_type(ExplorationType.RANDOM):
        first, second = actor(observations())["action"], actor(observations())["action"]
    assert not torch.equal(first, mode)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("kind", ["categorical", "gaussian"])
def test_stochastic_actors_draw_from_their_own_generator(kind):
    drawn = []
    for global_seed in (1, 2):
        actor = make(kind)
        torch.manual_seed(global_seed)
        with set_exploration_type(ExplorationType.RANDOM):
            drawn.append(actor(observations())["action"])
    assert torch.equal(*drawn)


@pytest.mark.parametrize("kind", ["categorical", "gaussian"])
def test_log_prob_is_that_of_the_action(kind):
    actor = make(kind)
    with set_exploration_type(ExplorationType.RANDOM):
        out = actor(observations())
    assert out["action_log_prob"].shape == (64,)
    assert torch.equal(out["action_log_prob"], actor.get_dist(observations()).log_prob(out["action"]))


def test_gaussian_actions_fill_the_specs_bounds():
    actor = make("gaussian")
    with set_exploration_type(ExplorationType.RANDOM):
        action = torch.cat([actor(observations())["action"] for _ in range(20)])
    assert BOX.is_in(action[:64])
    assert (action.amin(0) < torch.tensor([-1.8, 0.05])).all()
    assert (action.amax(0) > torch.tensor([1.8, 0.95])).all()


def test_critic():
    out = Critic(MLP(4, 1, (8,)))(observations())
    assert out["state_value"].shape == (64, 1)


@pytest.mark.parametrize("actor", [QActor, CategoricalActor])
def test_discrete_actors_refuse_a_box(actor):
    with pytest.raises(ValueError, match="needs Discrete actions .* got Bounded"):
        actor(nn.Linear(4, 2), BOX)


def test_gaussian_actor_refuses_other_actions_than_floats():
    with pytest.raises(ValueError, match="needs Box actions of floats, got Categorical of torch.int64; for Discrete"):
        GaussianActor(nn.Linear(4, 3), DISCRETE)
    with pytest.raises(ValueError, match="got Bounded.* of torch.int64; pass env.action_spec"):
        GaussianActor(nn.Linear(4, 2), Bounded(0, 3, (64, 2), dtype=torch.int64))
    with pytest.raises(ValueError, match="needs an action of numbers, got one of shape"):
        GaussianActor(nn.Identity(), Bounded(torch.zeros(64, 0), torch.ones(64, 0), (64, 0)))


@pytest.mark.parametrize(
    "spec", [Unbounded((64, 2)), Bounded(-float("inf"), float("inf"), (64, 2)), Bounded(-3e38, 3e38, (64, 2))]
)
def test_without_bounds_an_action_is_plainly_gaussian(spec):
    actor = GaussianActor(nn.Linear(4, 2), spec, torch.Generator().manual_seed(0), initial_std=0.5)
    distribution = actor.distribution(torch.zeros(64, 4))
    normal = torch.distributions.Normal(actor.network.bias.expand(64, 2), 0.5)
    action = 10 * distribution.draw(torch.Generator().manual_seed(0))
    torch.testing.assert_close(distribution.log_prob(action), normal.log_prob(action).sum(-1))
    torch.testing.assert_close(distribution.entropy(), normal.entropy().sum(-1))


def test_a_range_far_from_0_is_drawn_in_float64():
    spec = Bounded(1e9, 1e9 + 1, (64, 1), dtype=torch.float64)
    actor = GaussianActor(nn.Linear(4, 1), spec, torch.Generator().manual_seed(0))
    drawn = actor.distribution(torch.zeros(1000, 4)).draw(torch.Generator().manual_seed(0))
    assert drawn.dtype == torch.float64
    assert len(drawn.unique()) == 1000
    assert actor.distribution(torch.zeros(1000, 4)).log_prob(drawn).dtype == torch.float32


def masked_batch(scores=SCORES, mask=MASKS):
    return TensorDict({"observation": scores.clone().requires_grad_(), "action_mask": mask}, [len(scores)])


def is_allowed(action):
    """Whether an action `[48]` is allowed by its mask; one of no allowed actions forbids nothing."""
    return MASKS.gather(-1, action.unsqueeze(-1)).squeeze(-1) | ~MASKS.any(-1)


def test_forbidden_scores_are_minus_infinity_and_a_mask_of_none_forbids_nothing():
    scores = only_allowed(SCORES, MASKS)
    nothing_allowed = ~MASKS.any(-1)
    assert torch.equal(scores[nothing_allowed], SCORES[nothing_allowed])
    assert torch.equal(scores[MASKS], SCORES[MASKS])
    assert (scores[~MASKS & ~nothing_allowed.unsqueeze(-1)] == -torch.inf).all()
    assert only_allowed(SCORES, None) is SCORES


@pytest.mark.parametrize("tie_breaker", [None, torch.Generator()])
def test_masked_q_actor_takes_the_best_allowed_action(tie_breaker):
    actor = QActor(nn.Identity(), DISCRETE, masked=True, tie_breaker=tie_breaker)
    assert actor.in_keys == ["observation", "action_mask"]
    for kind in (ExplorationType.RANDOM, ExplorationType.DETERMINISTIC):
        with set_exploration_type(kind):
            out = actor(masked_batch())
        assert is_allowed(out["action"]).all()
        best = torch.where(MASKS | ~MASKS.any(-1, keepdim=True), SCORES, -torch.inf).amax(-1)
        assert torch.equal(SCORES.gather(-1, out["action"].unsqueeze(-1)).squeeze(-1), best)
        assert torch.equal(out["chosen_action_value"].squeeze(-1), best)


def test_gradients_of_masked_actors_are_finite_and_leave_forbidden_actions_alone():
    batch = masked_batch()
    QActor(nn.Identity(), DISCRETE, masked=True)(batch)["chosen_action_value"].sum().backward()
    distribution = CategoricalActor(nn.Identity(), DISCRETE, masked=True).get_dist(batch)
    (distribution.log_prob(distribution.mode) + distribution.entropy()).sum().backward()
    gradient = batch["observation"].grad
    assert gradient.isfinite().all()
    assert (gradient[~MASKS & MASKS.any(-1, keepdim=True)] == 0).all()
    assert (gradient[MASKS.sum(-1) > 1].abs().sum(-1) > 0).all()


def test_masked_categorical_actor_samples_allowed_actions_only():
    actor = CategoricalActor(nn.Identity(), DISCRETE, torch.Generator().manual_seed(0), masked=True)
    batch, seen = masked_batch(), set()
    for kind in (ExplorationType.DETERMINISTIC, *[ExplorationType.RANDOM] * 300):
        with set_exploration_type(kind), torch.no_grad():
            out = actor(batch)
        assert is_allowed(out["action"]).all()
        assert out["action_log_prob"].isfinite().all()
        seen |= set(enumerate(out["action"].tolist()))
    assert len(seen) == int((MASKS | ~MASKS.any(-1, keepdim=True)).sum())


def test_masked_distribution_is_that_over_the_allowed_actions():
    distribution = CategoricalActor(nn.Identity(), DISCRETE, masked=True).get_dist(masked_batch())
    entropy = distribution.entropy()
    for row, (scores, mask) in enumerate(zip(SCORES, MASKS, strict=True)):
        allowed = mask.nonzero().squeeze(-1) if mask.any() else torch.arange(3)
        expected = torch.distributions.Categorical(logits=scores[allowed])
        torch.testing.assert_close(entropy[row], expected.entropy())
        torch.testing.assert_close(distribution.logits[row, allowed], expected.logits)
        forbidden = torch.ones(3, dtype=torch.bool)
        forbidden[allowed] = False
        assert (distribution.logits[row, forbidden] == -torch.inf).all()


def test_ties_are_broken_uniformly_while_exploring_and_by_the_first_in_evaluation():
    scores = torch.tensor([[1.0, 1.0, 0.0, 1.0, 1.0]]).expand(8_000, 5)
    mask = torch.tensor([[False, True, True, True, True]]).expand(8_000, 5)
    actor = QActor(nn.Identity(), Categorical(5, (8_000,)), True, torch.Generator().manual_seed(0))
    with set_exploration_type(ExplorationType.RANDOM):
        out = actor(masked_batch(scores, mask))
    frequencies = torch.bincount(out["action"], minlength=5) / 8_000
    # four standard errors
    torch.testing.assert_close(frequencies, torch.tensor([0.0, 1 / 3, 0.0, 1 / 3, 1 / 3]), rtol=0, atol=0.022)
    assert (out["chosen_action_value"] == 1.0).all()
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        assert (actor(masked_batch(scores, mask))["action"] == 1).all()


def test_a_std_from_the_network_is_the_initial_one_where_its_output_is_zero():
    spec = Bounded(-1.0, 1.0, (64, 2, 2))
    for initial in (0.3, 1.0, 2.5):
        network = nn.Linear(4, 8)
        with torch.no_grad():
            network.weight[4:], network.bias[4:] = 0.0, 0.0
        actor = GaussianActor(network, spec, initial_std=initial, state_dependent_std=True)
        distribution = actor.get_dist(observations())
        assert distribution.normal_std.shape == distribution.normal_mean.shape == (64, 2, 2)
        torch.testing.assert_close(distribution.normal_std, torch.full((64, 2, 2), initial))
        assert not list(actor.parameters())[2:]
        network.bias.data[4:] = torch.tensor([-1e4, 0.0, 5.0, 5.0])
        std = actor.get_dist(observations()).normal_std.detach()
        assert (std[:, 0, 0] == 1e-4).all()
        assert (std[:, 1] > initial).all()


def test_mean_and_std_come_from_halves_of_the_networks_output_and_both_learn():
    network = MLP(4, 4, (8,))
    actor = GaussianActor(network, BOX, torch.Generator().manual_seed(0), state_dependent_std=True)
    with set_exploration_type(ExplorationType.RANDOM):
        out = actor(observations())
    distribution = actor.get_dist(observations())
    torch.testing.assert_close(distribution.normal_mean, network(observations()["observation"])[:, :2])
    assert distribution.normal_std.std(0).min() > 0
    distribution.log_prob(out["action"].detach()).sum().backward()
    assert (network[-1].weight.grad.abs().sum(-1) > 0).all()


def test_a_network_too_narrow_for_a_std_of_its_own_is_refused():
    for width in (2, 3, 8):
        actor = GaussianActor(nn.Linear(4, width), BOX, state_dependent_std=True)
        with pytest.raises((RuntimeError, ValueError)):
            actor.get_dist(observations())


BOXES = {
    "bounded": (Bounded(torch.tensor([[-2.0, 0.0]] * 64), torch.tensor([[2.0, 1.0]] * 64), (64, 2)), TanhNormal),
    "matrix": (Bounded(-3.0, 1.0, (64, 2, 3)), TanhNormal),
    "scalar": (Bounded(-3.0, 1.0, (64,)), TanhNormal),
    "open": (Unbounded((64, 2)), BoxNormal),
    "fine": (Bounded(1e9, 1e9 + 1, (64, 2), dtype=torch.float64), TanhNormal),
    "one bound": (
        Bounded(torch.tensor([[0.0, -torch.inf]] * 64), torch.tensor([[torch.inf, 2.0]] * 64), (64, 2)),
        BoxNormal,
    ),
    "fixed": (Bounded(torch.tensor([[0.0, 3.0]] * 64), torch.tensor([[1.0, 3.0]] * 64), (64, 2)), BoxNormal),
}


@pytest.mark.parametrize("name", BOXES)
def test_a_deterministic_actor_takes_the_mode_of_a_gaussian_one(name):
    spec, distribution = BOXES[name]
    torch.manual_seed(0)
    network = nn.Linear(4, spec.shape[1:].numel())
    actor, gaussian = DeterministicActor(network, spec), GaussianActor(network, spec)
    batch = observations()
    for kind in (ExplorationType.RANDOM, ExplorationType.DETERMINISTIC):
        with set_exploration_type(kind):
            out = actor(batch.clone())
        assert set(out.keys()) == {"observation", "action"}
        assert torch.equal(out["action"], gaussian.get_dist(batch).mode)
        assert out["action"].dtype == (torch.float64 if name == "fine" else torch.float32)
        assert spec.is_in(out["action"].to(spec.dtype))
    assert type(gaussian.get_dist(batch)) is distribution


def test_a_deterministic_action_is_the_networks_squashed_into_the_bounds():
    actor = DeterministicActor(nn.Identity(), BOX)
    (action,) = actor.compute(torch.tensor([[0.0, 0.0], [0.5, -0.5], [9.0, 9.0], [-50.0, -50.0]]))
    expected = torch.tensor([[0.0, 0.5], [2 * 0.46211716, 0.5 - 0.46211716 / 2], [2.0, 1.0], [-2.0, 0.0]])
    torch.testing.assert_close(action, expected)


@pytest.mark.parametrize("name", BOXES)
def test_gradients_pass_through_a_deterministic_action_to_the_network(name):
    spec, _ = BOXES[name]
    actor = DeterministicActor(nn.Linear(4, spec.shape[1:].numel()), spec)
    (action,) = actor.compute(observations()["observation"])
    action.sum().backward()
    learning = actor.network.bias.grad != 0
    assert actor.network.bias.grad.isfinite().all()
    assert learning.tolist() == ([True, False] if name == "fixed" else [True] * len(learning))


@pytest.mark.parametrize("kind", [DeterministicActor, GaussianActor])
@pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
@pytest.mark.parametrize("batch", [(), (5,), (5, 6)])
def test_box_actors_take_any_shape_of_batch_and_action(kind, shape, batch):
    actor = kind(nn.Linear(4, torch.Size(shape).numel()), Bounded(-1.0, 1.0, (64, *shape)))
    action, *others = actor.compute(torch.zeros(*batch, 4))
    assert action.shape == (*batch, *shape)
    assert all(each.shape == batch for each in others)


def test_a_deterministic_actor_refuses_what_it_cannot_act_in():
    with pytest.raises(ValueError, match="DeterministicActor needs Box actions .* got Categorical .* there is QActor"):
        DeterministicActor(nn.Linear(4, 3), DISCRETE)
    with pytest.raises(ValueError, match=r"DeterministicActor gives 3 numbers, expected 2: one for each element"):
        DeterministicActor(nn.Linear(4, 3), BOX)(observations())
