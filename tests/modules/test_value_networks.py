"""Critics of one action, and quantiles: what they write, and what they refuse."""

import pytest
import torch
from tensordict import TensorDict
from torch import nn
from torchrl.data import Bounded, Categorical, MultiCategorical
from torchrl.envs.utils import ExplorationType, set_exploration_type

from rlpipe.losses import DQNLoss
from rlpipe.modules import MLP, ActionValueCritic, QActor, QuantileActor

DISCRETE = Categorical(3, (64,))
BOX = Bounded(torch.tensor([[-2.0, 0.0]] * 64), torch.tensor([[2.0, 1.0]] * 64), (64, 2))


def observations():
    return TensorDict({"observation": torch.randn(64, 4, generator=torch.Generator().manual_seed(0))}, [64])


@pytest.mark.parametrize("shape", [(2,), (2, 3), ()])
def test_an_action_value_critic_takes_actions_of_any_shape(shape):
    torch.manual_seed(0)
    spec = Bounded(-torch.ones(64, *shape), torch.ones(64, *shape), (64, *shape))
    critic = ActionValueCritic(MLP(4 + spec.shape[1:].numel(), 1, (8,)), spec)
    batch = observations().set("action", spec.rand().requires_grad_())
    value = critic(batch)["state_action_value"]
    assert value.shape == (64, 1)
    flat = batch["action"].reshape(64, -1)
    assert torch.equal(value, critic.network(torch.cat([batch["observation"], flat], -1)))
    (gradient,) = torch.autograd.grad(value.sum(), batch["action"])
    assert (gradient != 0).all()
    # any leading shape
    torch.testing.assert_close(critic(batch.detach().reshape(8, 8))["state_action_value"], value.reshape(8, 8, 1))


def test_an_action_value_critic_says_what_it_cannot_take():
    with pytest.raises(ValueError, match="ActionValueCritic needs Box actions, got Categorical; .* there is QActor"):
        ActionValueCritic(MLP(6, 1), DISCRETE)
    critic = ActionValueCritic(MLP(6, 1), BOX)
    with pytest.raises(ValueError, match=r"key 'action' has shape \[64\], expected \[64, 2\] with key 'observation'"):
        critic(observations().set("action", torch.zeros(64)))
    with pytest.raises(ValueError, match=r"key 'observation' of shape \[64, 6\], with the action's numbers .*build it"):
        ActionValueCritic(MLP(5, 1), BOX)(observations().set("action", torch.zeros(64, 2)))


def test_quantiles_lie_side_by_side_and_their_mean_is_the_value():
    network = nn.Linear(4, 6)
    out = QuantileActor(network, DISCRETE, 2)(observations())
    flat = network(observations()["observation"])
    assert torch.equal(out["quantiles"], torch.stack([flat[:, [0, 1]], flat[:, [2, 3]], flat[:, [4, 5]]], 1))
    torch.testing.assert_close(out["action_value"], out["quantiles"].sum(-1) / 2)
    assert torch.equal(out["action"], out["action_value"].argmax(-1))
    assert torch.equal(out["chosen_action_value"], out["action_value"].amax(-1, keepdim=True))


def test_one_quantile_is_a_q_network():
    network, batch = MLP(4, 3, (8,)), observations()
    one, plain = QuantileActor(network, DISCRETE, 1)(batch.clone()), QActor(network, DISCRETE)(batch.clone())
    assert all(torch.equal(one[key], plain[key]) for key in plain.keys())


@pytest.mark.parametrize("tie_breaker", [None, torch.Generator()])
def test_a_masked_quantile_actor_takes_the_best_allowed_action(tie_breaker):
    actor = QuantileActor(MLP(4, 9, (8,)), DISCRETE, 3, masked=True, tie_breaker=tie_breaker)
    assert actor.in_keys == ["observation", "action_mask"]
    mask = torch.rand(64, 3, generator=torch.Generator().manual_seed(0)) < 0.6
    with set_exploration_type(ExplorationType.RANDOM):
        out = actor(observations().set("action_mask", mask))
    values = out["quantiles"].mean(-1)
    best = torch.where(mask | ~mask.any(-1, keepdim=True), values, -torch.inf).argmax(-1)
    assert torch.equal(out["action"], best)
    assert not torch.equal(best, values.argmax(-1))
    assert out["quantiles"].isfinite().all()


def test_quantiles_of_joint_actions():
    spec = MultiCategorical([2, 3], (64, 2))
    out = QuantileActor(MLP(4, 12, (8,)), spec, 2)(observations())
    assert out["quantiles"].shape == (64, 6, 2)
    joint = out["action_value"].argmax(-1)
    assert torch.equal(out["action"], torch.stack([joint // 3, joint % 3], -1))


def test_dqn_learns_from_the_mean_of_quantiles():
    actor = QuantileActor(MLP(4, 6, (8,)), DISCRETE, 2)
    after = {**observations(), "reward": torch.ones(64, 1), "terminated": torch.zeros(64, 1, dtype=torch.bool)}
    batch = observations().set("action", torch.zeros(64, dtype=torch.int64)).set("next", after)
    DQNLoss(actor, double=True)(batch)["loss_td"].backward()
    assert (actor.network[-1].bias.grad != 0).tolist() == [True, True, False, False, False, False]


def test_quantiles_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="gives 6 numbers, expected 9: 3 quantiles for each of 3 actions"):
        QuantileActor(MLP(4, 6), DISCRETE, 3)(observations())
    with pytest.raises(ValueError, match="quantiles is 0; allowed is 1 or more"):
        QuantileActor(MLP(4, 6), DISCRETE, 0)
    with pytest.raises(ValueError, match="QuantileActor needs Discrete actions"):
        QuantileActor(MLP(4, 6), BOX, 3)
