"""Actors, critics and Q networks that are sequences of modules, ours and TorchRL's, such as an encoder and an actor."""

from copy import deepcopy

import pytest
import torch
from small_losses import ACTIONS, make_network, random_batch
from tensordict.nn import (
    NormalParamExtractor,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
    TensorDictSequential,
)
from torch import nn
from torchrl.data import Bounded, MultiCategorical
from torchrl.modules import ProbabilisticActor, QValueActor, TanhNormal, ValueOperator

from rlpipe.losses import GAE, A2CLoss, ClipPPOLoss, DQNLoss, ReinforceLoss, ReturnToGo, policy_terms
from rlpipe.modules import MLP, CategoricalActor, Critic, GaussianActor, Network, QActor

ENCODED = "observation"


def encoder(seed=0):
    torch.manual_seed(seed)
    return TensorDictModule(MLP(4, None, (4,), activation="tanh"), in_keys=["seen"], out_keys=[ENCODED])


def stock_actor(network):
    logits = TensorDictModule(network, in_keys=[ENCODED], out_keys=["logits"])
    categorical = torch.distributions.Categorical
    return ProbabilisticActor(logits, in_keys=["logits"], distribution_class=categorical, return_log_prob=True)


def batch_of_seen(*shape):
    return random_batch(*shape).rename_key_(ENCODED, "seen")


ACTORS = {
    "ours": lambda first, head: TensorDictSequential(first, CategoricalActor(head, ACTIONS)),
    "stock": lambda first, head: TensorDictSequential(first, stock_actor(head)),
    "probabilistic": lambda first, head: ProbabilisticTensorDictSequential(first, *stock_actor(head).module),
    "nested": lambda first, head: TensorDictSequential(
        TensorDictSequential(first), TensorDictSequential(CategoricalActor(head, ACTIONS))
    ),
    "named": lambda first, head: TensorDictSequential({"first": first, "actor": stock_actor(head)}),
    "more after it": lambda first, head: TensorDictSequential(
        first, CategoricalActor(head, ACTIONS), TensorDictModule(nn.Identity(), ["action"], ["copy"])
    ),
}


@pytest.mark.parametrize("kind", ACTORS)
@pytest.mark.parametrize("make", [ClipPPOLoss, A2CLoss, ReinforceLoss])
def test_an_encoder_before_actor_and_critic(make, kind, identical):
    first, heads = encoder(), (make_network(3, 1), make_network(1, 2))
    actor, critic = ACTORS[kind](first, heads[0]), TensorDictSequential(first, Critic(heads[1]))
    loss = make(actor, critic)
    assert ENCODED not in loss.in_keys
    assert loss.in_keys.count("seen") == 1
    batch = batch_of_seen(32)
    before = deepcopy(batch)
    out = loss(batch.select(*loss.in_keys))
    identical(batch, before)

    # the same networks, each in one module
    trunk = deepcopy(first).module
    whole = [nn.Sequential(trunk, deepcopy(head)) for head in heads]
    plain = make(CategoricalActor(whole[0], ACTIONS), Critic(whole[1]))
    expected = plain(batch.clone().rename_key_("seen", ENCODED))
    for key in expected.keys():
        torch.testing.assert_close(out[key], expected[key])
    for each in (out, expected):
        sum(term for key, term in each.items() if key.startswith("loss")).backward()
    learned, same = [*first.parameters(), *heads[0].parameters()], [*trunk.parameters(), *whole[0][1].parameters()]
    assert all(parameter.grad.abs().sum() > 0 for parameter in learned)
    for one, other in zip(learned, same, strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    assert len(list(loss.parameters())) == len(list(plain.parameters()))


def test_what_stands_before_runs_in_order_and_the_rest_does_not():
    ran = []

    def step(name, add):
        def run(x):
            ran.append(name)
            return x + add

        return run

    modules = [
        TensorDictModule(step("one", 1.0), ["seen"], ["half"]),
        TensorDictModule(step("two", 1.0), ["half"], [ENCODED]),
        CategoricalActor(make_network(3, 1), ACTIONS),
        TensorDictModule(step("three", 0), ["action"], ["other"]),
    ]
    batch = batch_of_seen(8)
    log_prob, _ = policy_terms(TensorDictSequential(*modules), batch)
    assert ran == ["one", "two"]
    shifted = batch.clone().set(ENCODED, batch["seen"] + 2.0)
    torch.testing.assert_close(log_prob, policy_terms(modules[2], shifted)[0])


def test_the_last_of_several_policies_is_the_one():
    first = CategoricalActor(make_network(3, 5), ACTIONS)
    last = CategoricalActor(make_network(3, 6), ACTIONS)
    batch = random_batch(8)
    assert torch.equal(policy_terms(TensorDictSequential(first, last), batch)[0], policy_terms(last, batch)[0])


def test_an_actor_without_a_distribution_is_refused():
    batch = random_batch(8)
    q_actor = QActor(make_network(3, 1), ACTIONS)
    with pytest.raises(TypeError, match="the actor is a QActor, which has no get_dist; a CategoricalActor has"):
        policy_terms(q_actor, batch)
    sequence = TensorDictSequential(encoder(), q_actor)
    with pytest.raises(TypeError, match="is a TensorDictSequential of TensorDictModule, QActor, which has no get_dist"):
        policy_terms(sequence, batch_of_seen(8))


def test_a_missing_key_is_named_also_of_a_sequence():
    loss = ClipPPOLoss(ACTORS["ours"](encoder(), make_network(3, 1)), Critic(make_network(1, 2)))
    with pytest.raises(KeyError, match="no key 'seen'; it has"):
        loss(random_batch(8))


def test_an_entropy_without_closed_form_is_estimated():
    torch.manual_seed(0)
    box = Bounded(-2.0, 2.0, (1,))
    outputs = nn.Sequential(nn.Linear(4, 2), NormalParamExtractor())
    module = TensorDictModule(outputs, in_keys=[ENCODED], out_keys=["loc", "scale"])
    actor = ProbabilisticActor(
        module,
        in_keys=["loc", "scale"],
        spec=box,
        distribution_class=TanhNormal,
        distribution_kwargs={"low": -2.0, "high": 2.0},
        return_log_prob=True,
    )
    batch = actor(random_batch(1).expand(20_000).exclude("action")).detach()
    log_prob, entropy = policy_terms(actor, batch)
    torch.testing.assert_close(log_prob, batch["action_log_prob"], rtol=0, atol=1e-4)
    # ours has a closed form, up to a quadrature
    ours = GaussianActor(nn.Sequential(outputs[0]), Bounded(-2.0, 2.0, (20_000, 1)), state_dependent_std=True)
    mean, std = outputs(batch[ENCODED])
    exact = ours._kind(mean, std, ours.low, ours.high, ours.quadrature).entropy().mean()
    torch.testing.assert_close(entropy.mean(), exact, rtol=0, atol=0.03)
    (bias,), (exact_bias,) = (torch.autograd.grad(each, outputs[0].bias) for each in (entropy.mean(), exact))
    assert exact_bias.abs().max() > 0.3
    torch.testing.assert_close(bias, exact_bias, rtol=0, atol=0.05)


def rollout(*shape):
    batch = batch_of_seen(*shape)
    terminated, truncated = (torch.rand(2, *shape, 1) < 0.2).unbind(0)
    after = {"seen": torch.randn(*shape, 4), "reward": torch.randn(*shape, 1)}
    batch["next"] = {**after, "terminated": terminated, "done": terminated | truncated}
    return batch


@pytest.mark.parametrize("stock", [False, True])
@pytest.mark.parametrize("make", [GAE, lambda critic: ReturnToGo(critic, gamma=0.9)])
def test_advantages_of_a_critic_that_is_a_sequence(make, stock):
    torch.manual_seed(0)
    first, head = encoder(), make_network(1, 2)
    critic = TensorDictSequential(first, ValueOperator(head, in_keys=[ENCODED]) if stock else Critic(head))
    batch = rollout(2, 16)
    advantage = make(critic)
    actual = advantage(batch.select(*advantage.in_keys))
    plain = make(Critic(Network(first.module, head, in_keys=["seen"])))
    expected = plain(batch.clone())
    for key in ("advantage", "value_target", "state_value"):
        torch.testing.assert_close(actual[key], expected[key])
    assert ENCODED not in actual


@pytest.mark.parametrize("stock", [False, True])
def test_a_q_network_that_is_a_sequence(stock):
    first, head = encoder(), make_network(3, 1)
    last = QValueActor(head, in_keys=[ENCODED], action_space="categorical") if stock else QActor(head, ACTIONS)
    loss = DQNLoss(TensorDictSequential(first, last), double=True)
    assert loss.in_keys == ["action", "seen", *(("next", key) for key in ("seen", "reward", "terminated"))]
    batch = rollout(32)
    plain = DQNLoss(QActor(Network(first.module, head, in_keys=["seen"]), ACTIONS), double=True)
    torch.testing.assert_close(loss(batch.select(*loss.in_keys))["loss_td"], plain(batch)["loss_td"])
    loss(batch)["loss_td"].backward()
    assert first.module[0].weight.grad.abs().sum() > 0


def test_a_q_network_of_several_choices_that_is_a_sequence():
    spec = MultiCategorical([2, 3], (32, 2))
    first, last = encoder(), QActor(make_network(6, 1), spec)
    batch = rollout(32)
    batch["action"] = torch.stack([torch.randint(2, (32,)), torch.randint(3, (32,))], -1)
    out = DQNLoss(TensorDictSequential(first, last))(batch)
    whole = QActor(Network(first.module, last.network, in_keys=["seen"]), spec)
    torch.testing.assert_close(out["loss_td"], DQNLoss(whole)(batch)["loss_td"])
    with pytest.raises(ValueError, match=r"'action' has dtype torch.int64 and shape \[32\], expected .* \[32, 2\]$"):
        DQNLoss(whole)(batch.set("action", torch.zeros(32, dtype=torch.int64)))
