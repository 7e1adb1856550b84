"""Actors: what they write, when they explore, and what they refuse."""

import pytest
import torch
from tensordict import TensorDict
from torch import nn
from torchrl.data import Bounded, Categorical, Unbounded
from torchrl.envs.utils import ExplorationType, set_exploration_type

from rlpipe.modules import MLP, CategoricalActor, Critic, GaussianActor, QActor

DISCRETE = Categorical(3, (64,))
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


def test_gaussian_actor_refuses_discrete_and_unbounded_actions():
    with pytest.raises(ValueError, match="needs bounded Box actions, got Categorical"):
        GaussianActor(nn.Linear(4, 3), DISCRETE)
    with pytest.raises(ValueError, match="needs bounded Box actions, got Unbounded"):
        GaussianActor(nn.Linear(4, 2), Unbounded((64, 2)))
    with pytest.raises(ValueError, match="needs finite action bounds"):
        GaussianActor(nn.Linear(4, 2), Bounded(-float("inf"), float("inf"), (64, 2)))
