"""Value estimators of our losses: TorchRL's, with the numbers that they have in TorchRL's losses, and our own."""

from copy import deepcopy

import pytest
import torch
from small_losses import ACTIONS, make_network, make_stock_modules
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torchrl.objectives import A2CLoss as StockA2CLoss
from torchrl.objectives import ClipPPOLoss as StockClipPPOLoss
from torchrl.objectives import ReinforceLoss as StockReinforceLoss
from torchrl.objectives import ValueEstimators
from torchrl.objectives.value import GAE as StockGAE

from rlpipe.losses import GAE, A2CLoss, ClipPPOLoss, ReinforceLoss, ReturnToGo
from rlpipe.modules import MLP, CategoricalActor, Critic
from rlpipe.pipelines.updates.recorder import make_gradient

KINDS = {
    ValueEstimators.GAE: {"gamma": 0.9, "lmbda": 0.8},
    ValueEstimators.TD0: {"gamma": 0.9},
    ValueEstimators.TD1: {"gamma": 0.9},
    ValueEstimators.TDLambda: {"gamma": 0.9, "lmbda": 0.8},
}
MAKE = {
    "ppo": lambda actor, critic: ClipPPOLoss(actor, critic, normalize_advantage=False),
    "a2c": A2CLoss,
    "reinforce": lambda actor, critic: ReinforceLoss(actor, critic, entropy_coefficient=0.01),
}
STOCK = {
    "ppo": lambda *networks: StockClipPPOLoss(*networks, normalize_advantage=False, loss_critic_type="l2"),
    "a2c": lambda *networks: StockA2CLoss(*networks, loss_critic_type="l2"),
    "reinforce": lambda *networks: StockReinforceLoss(*networks, loss_critic_type="l2"),
}


def make_loss(name="ppo"):
    return MAKE[name](CategoricalActor(make_network(3, 1), ACTIONS), Critic(make_network(1, 2)))


def rollout(*shape, seed=0):
    """Steps of which some end an episode, terminated or truncated, and then have a true next observation."""
    torch.manual_seed(seed)
    states = torch.randn(*shape[:-1], shape[-1] + 1, 4)
    terminated, truncated = (torch.rand(2, *shape, 1) < 0.15).unbind(0)
    done = terminated | truncated
    last = torch.where(done, torch.randn(*shape, 4), states[..., 1:, :])
    after = {"observation": last, "reward": torch.randn(*shape, 1), "terminated": terminated, "done": done}
    entries = {"observation": states[..., :-1, :], "action": torch.randint(3, shape)}
    entries["action_log_prob"] = -1.1 + 0.4 * torch.randn(shape)
    return TensorDict({**entries, "next": after}, shape)


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("kind", KINDS)
def test_estimates_and_terms_equal_torchrl(kind, name, identical):
    batch = rollout(3, 20)
    assert batch["next", "terminated"].any()
    assert (batch["next", "done"] & ~batch["next", "terminated"]).any()
    ours, stock = make_loss(name), STOCK[name](*make_stock_modules())
    assert ours.make_value_estimator(kind, **KINDS[kind]) is ours
    stock.make_value_estimator(kind, **KINDS[kind])
    before = deepcopy(batch)
    terms, expected = ours(batch), stock(batch.clone())
    identical(batch, before)
    pairs = {"loss_policy": "loss_objective", "loss_value": "loss_critic", "loss_entropy": "loss_entropy"}
    pairs = {"loss_policy": "loss_actor", "loss_value": "loss_value"} if name == "reinforce" else pairs
    for mine, theirs in pairs.items():
        weight = 0.5 if mine == "loss_value" else 1.0
        torch.testing.assert_close(terms[mine], weight * expected[theirs], rtol=0, atol=1e-5)

    written, theirs = ours.value_estimator(batch.clone()), stock.value_estimator(batch.clone())
    for key in ("advantage", "value_target"):
        torch.testing.assert_close(written[key], theirs[key], rtol=0, atol=1e-5)
        assert not written[key].requires_grad


def test_the_default_is_gae():
    loss, batch = make_loss(), rollout(3, 20)
    assert isinstance(loss.value_estimator, StockGAE)
    assert loss.default_value_estimator is loss.value_type is ValueEstimators.GAE
    expected = GAE(loss.critic, gamma=0.99, lmbda=0.95)(batch.clone())
    torch.testing.assert_close(loss.value_estimator(batch)["advantage"], expected["advantage"], rtol=0, atol=1e-5)


def test_an_advantage_that_is_there_is_used():
    loss, batch = make_loss(), rollout(3, 20)
    batch["advantage"], batch["value_target"] = torch.randn(2, 3, 20, 1).unbind(0)
    expected = loss(batch)
    loss.make_value_estimator(gamma=0.5)
    assert torch.equal(loss(batch)["loss_policy"], expected["loss_policy"])


def test_without_an_estimator_the_advantage_is_missed():
    with pytest.raises(KeyError, match="no key 'advantage'; it has"):
        make_loss()(rollout(3, 20))


def test_the_critic_is_used_as_it_is_and_gets_no_gradient_by_it():
    loss, batch = make_loss(), rollout(3, 20)
    loss.critic.network[2].bias.requires_grad_(False)
    loss.make_value_estimator(ValueEstimators.GAE, gamma=0.9, lmbda=0.8)
    first = loss.value_estimator(batch.clone())["advantage"]
    loss(batch)["loss_policy"].backward()
    assert all(parameter.grad is None for parameter in loss.critic.parameters())
    # TorchRL's estimators would unfreeze it
    assert not loss.critic.network[2].bias.requires_grad
    assert loss.critic.network[2].weight.requires_grad
    with torch.no_grad():
        loss.critic.network[2].weight.mul_(2.0)
    assert not torch.allclose(loss.value_estimator(batch.clone())["advantage"], first)


@pytest.mark.parametrize("given", ["instance", "class", "name", "ours"])
def test_what_may_be_given(given):
    loss, batch = make_loss(), rollout(3, 20)
    expected = GAE(loss.critic, gamma=0.9, lmbda=0.8)(batch.clone())
    stock = StockGAE(gamma=0.9, lmbda=0.8, value_network=loss.critic, vectorized=True, deactivate_vmap=True)
    if given == "instance":
        loss.make_value_estimator(stock)
    elif given == "class":
        loss.make_value_estimator(StockGAE, gamma=0.9, lmbda=0.8)
    elif given == "name":
        loss.make_value_estimator("gae", gamma=0.9, lmbda=0.8)
    else:
        loss.make_value_estimator(GAE(loss.critic, gamma=0.9, lmbda=0.8))
    actual = loss.value_estimator(batch.clone())
    for key in ("advantage", "value_target"):
        torch.testing.assert_close(actual[key], expected[key], rtol=0, atol=1e-5)
    assert loss(batch)["loss_policy"] == loss(actual)["loss_policy"]


def test_returns_of_whole_episodes_are_an_estimator_too():
    loss = ReinforceLoss(CategoricalActor(make_network(3, 1), ACTIONS), normalize="episode")
    batch = rollout(3, 20)
    returns = ReturnToGo(gamma=0.9)
    expected = loss(returns(batch.clone()))
    loss.make_value_estimator(returns)
    assert torch.equal(loss(batch)["loss_policy"], expected["loss_policy"])


@pytest.mark.parametrize("order", ["keys first", "estimator first"])
@pytest.mark.parametrize("own", [False, True])
def test_an_estimator_has_the_keys_of_its_loss(order, own):
    plain = make_loss()
    plain.make_value_estimator(gamma=0.9, lmbda=0.8)
    batch = rollout(3, 20)
    expected = plain.value_estimator(batch.clone())
    critic = TensorDictModule(plain.critic.network, in_keys=["observation"], out_keys=["worth"])
    loss = ClipPPOLoss(plain.actor, critic, normalize_advantage=False)
    names = {"advantage": "a", "value_target": "v", "value": "worth", "reward": "r", "done": "d", "terminated": "t"}
    loss.set_keys(**(names if order == "keys first" else {"value": "worth"}))
    if own:
        loss.make_value_estimator(GAE(critic, gamma=0.9, lmbda=0.8))
    else:
        loss.make_value_estimator(gamma=0.9, lmbda=0.8)
    if order == "estimator first":
        loss.set_keys(**names)
    renamed = batch.clone()
    for key in ("reward", "done", "terminated"):
        renamed["next"].rename_key_(key, names[key])
    actual = loss.value_estimator(renamed.clone())
    assert {"a", "v", "worth"} <= set(actual.keys())
    assert not {"advantage", "value_target", "state_value"} & set(actual.keys())
    torch.testing.assert_close(actual["a"], expected["advantage"], rtol=0, atol=1e-5)
    torch.testing.assert_close(actual["v"], expected["value_target"], rtol=0, atol=1e-5)
    torch.testing.assert_close(loss(renamed)["loss_policy"], plain(batch)["loss_policy"])


def test_of_a_critic_that_is_a_sequence_and_shares_its_encoder():
    first = TensorDictModule(MLP(4, None, (4,)), in_keys=["observation"], out_keys=["features"])
    head = TensorDictModule(make_network(1, 2), in_keys=["features"], out_keys=["state_value"])
    critic = TensorDictSequential(first, head)
    loss = ClipPPOLoss(CategoricalActor(make_network(3, 1), ACTIONS), critic)
    loss.make_value_estimator(gamma=0.9, lmbda=0.8)
    batch = rollout(3, 20)
    expected = GAE(critic, gamma=0.9, lmbda=0.8)(batch.clone())
    actual = loss.value_estimator(batch)
    torch.testing.assert_close(actual["advantage"], expected["advantage"], rtol=0, atol=1e-5)


def test_an_estimator_is_not_in_the_state_dict():
    loss = make_loss()
    layers = ["network.0.weight", "network.0.bias", "network.2.weight", "network.2.bias"]
    names = [f"{network}.{layer}" for network in ("actor", "critic") for layer in layers]
    loss.make_value_estimator(gamma=0.9)
    assert list(loss.state_dict()) == names
    assert len(list(loss.parameters())) == len(names)
    assert loss.get_stateful_net("critic") is loss.critic
    before = loss.critic.network[0].weight.clone()
    loss.reset_parameters_recursive()
    assert not torch.equal(loss.critic.network[0].weight, before)
    copy = deepcopy(loss)
    assert copy.value_estimator.value_network.critic is copy.critic


def test_an_update_on_advantages_is_recorded_and_one_that_computes_them_is_not():
    loss, batch = make_loss(), rollout(3, 20)
    loss.make_value_estimator(gamma=0.9)
    parameters = list(loss.parameters())
    with_advantage = loss.value_estimator(batch.clone()).select(*loss.in_keys)
    recorded, eager = (make_gradient(loss, parameters, execution) for execution in ("recorded", "eager"))
    for _ in range(14):
        assert all(map(torch.equal, recorded(with_advantage)[0], eager(with_advantage)[0]))
    assert recorded._state.recordings
    for _ in range(9):
        recorded(batch)
    with pytest.raises(ValueError, match="which depends on data; leave its execution eager"):
        recorded(batch)


def test_messages():
    loss = make_loss()
    with pytest.raises(ValueError, match=r"makes no value estimator .*VTrace.*; there are GAE, TD0, TD1, TDLambda"):
        loss.make_value_estimator(ValueEstimators.VTrace)
    with pytest.raises(ValueError, match="makes no value estimator 'gaee'; there are GAE"):
        loss.make_value_estimator("gaee")
    with pytest.raises(ValueError, match="ReinforceLoss has no critic, whose values an estimator needs"):
        ReinforceLoss(CategoricalActor(make_network(3, 1), ACTIONS)).make_value_estimator(gamma=0.9)
