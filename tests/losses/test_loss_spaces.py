"""Losses on observations and actions of every kind: what they read, recorded gradients, and what gradients reach."""

import pytest
import torch
from spaces import box, discrete, every_action, every_kind, multi_binary, multi_discrete
from tensordict import TensorDict
from torch import nn
from torchrl.data import LazyTensorStorage, ReplayBuffer
from torchrl.data.replay_buffers import SamplerWithoutReplacement
from torchrl.envs.utils import ExplorationType, set_exploration_type

from rlpipe.losses import GAE, A2CLoss, ClipPPOLoss, DQNLoss, NStep, ReinforceLoss, ReturnToGo, action_keys
from rlpipe.modules import MLP, Critic, Network, QActor, Shared, encoder, policy_outputs, stochastic_actor
from rlpipe.pipelines.updates import recorder
from rlpipe.pipelines.updates.learning import on_policy, once
from rlpipe.pipelines.updates.recorder import make_gradient

ENVS, STEPS = 4, 8
ACTIONS = {"discrete": discrete, "multi_discrete": multi_discrete, "multi_binary": multi_binary, "box": box}
ACTIONS["dict"] = every_action
LEAVES = [("action", "move"), ("action", "arm", "force"), ("action", "arm", "grip"), ("action", "0")]


def networks(kind, shared=False):
    torch.manual_seed(0)
    spec = every_kind(ENVS)
    first = encoder(spec)
    trunk = (
        Network(Shared(first, *MLP(first.features, None, (8,))))
        if shared
        else Network(first, *MLP(first.features, None, (8,)))
    )
    actions = ACTIONS[kind](ENVS)
    actor = stochastic_actor(
        Network(*trunk, nn.Linear(8, policy_outputs(actions))), actions, torch.Generator().manual_seed(1)
    )
    return actor, Critic(Network(*trunk, nn.Linear(8, 1)))


def steps(spec):
    torch.manual_seed(1)
    return torch.stack([TensorDict(spec.rand(), [ENVS]) for _ in range(STEPS)], 1)


def collected(actor=None):
    """A batch `[ENVS, STEPS]` as a collector gives it."""
    spec = every_kind(ENVS)
    batch, after = steps(spec), steps(spec)
    terminated, truncated = (torch.rand(ENVS, STEPS, 1) < 0.2 for _ in range(2))
    after.update({"reward": torch.randn(ENVS, STEPS, 1), "terminated": terminated, "done": terminated | truncated})
    if actor is not None:
        with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
            actor(batch)
    return batch.set("next", after)


def losses(actor, critic):
    return {"ppo": ClipPPOLoss(actor, critic), "a2c": A2CLoss(actor, critic), "reinforce": ReinforceLoss(actor, critic)}


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("name", ["ppo", "a2c", "reinforce"])
@pytest.mark.parametrize("kind", ACTIONS)
def test_recorded_gradients_are_autograds(name, kind, shared):
    actor, critic = networks(kind, shared)
    loss = losses(actor, critic)[name]
    assert loss.in_keys[5:-2][: len(LEAVES)] == LEAVES if kind == "dict" else "action" in loss.in_keys
    assert action_keys(actor) == (LEAVES if kind == "dict" else ["action"])
    batch = GAE(critic)(collected(actor)) if name != "reinforce" else ReturnToGo(critic, gamma=0.9)(collected(actor))
    flat = batch.select(*loss.in_keys).reshape(-1)
    parameters = list(loss.parameters())
    eager, recorded = (make_gradient(loss, parameters, execution) for execution in ("eager", "recorded"))
    for _ in range(recorder._REPEATS + 3):
        minibatch = flat[torch.randperm(len(flat))[:16]]
        (expected, terms), (gradient, recorded_terms) = eager(minibatch.copy()), recorded(minibatch.copy())
        assert all(map(torch.equal, gradient, expected))
        assert all(torch.equal(terms[key], recorded_terms[key]) for key in terms)
    assert len(recorded._recordings) == 1
    assert all(grad.abs().sum() > 0 for grad in gradient if grad.numel() > 1)


@pytest.mark.parametrize("kind", ["dict", "multi_binary"])
def test_minibatches_hold_what_the_loss_reads(kind):
    actor, critic = networks(kind)
    loss, seen = ClipPPOLoss(actor, critic), []
    buffer = ReplayBuffer(storage=LazyTensorStorage(ENVS * STEPS), sampler=SamplerWithoutReplacement(), batch_size=8)

    def update(minibatch):
        seen.append(minibatch)
        return loss(minibatch).detach()

    on_policy(GAE(critic), buffer, update, epochs=1, keys=loss.in_keys)(collected(actor))
    assert [len(each) for each in seen] == [8] * 4
    assert set(seen[0].keys(True, True)) == set(loss.in_keys)
    scalars = once(update, keys=loss.in_keys, advantage=GAE(critic))(collected(actor))
    # the actor that collected has changed nothing since
    assert scalars["approx_kl"].abs() < 1e-6


def test_gae_reads_nested_entries():
    _, critic = networks("discrete")
    batch = collected()
    value = critic(batch.select(*critic.in_keys).reshape(-1))["state_value"].reshape(ENVS, STEPS, 1)
    torch.testing.assert_close(GAE(critic)(batch)["state_value"], value)
    with pytest.raises(KeyError, match=r"\('robot', 'mode'\)"):
        GAE(critic)(batch.exclude(("robot", "mode")))


def dqn(spec):
    torch.manual_seed(0)
    first = encoder(every_kind(ENVS))
    outputs = policy_outputs(spec) if spec.shape == (ENVS,) else 24 if spec.dtype is torch.int64 else 16
    return QActor(Network(first, *MLP(first.features, outputs, (8,))), spec)


@pytest.mark.parametrize("make", [discrete, multi_discrete, multi_binary])
def test_dqn_learns_the_value_of_the_joint_action(make):
    actor = dqn(make(ENVS))
    loss = DQNLoss(actor, gamma=0.9, double=True, n_step=True)
    batch = NStep(gamma=0.9, n=2)(actor(collected())).select(*loss.in_keys).reshape(-1)
    terms = loss(batch)
    # the greedy action's value is the largest
    largest = actor(batch.select(*actor.in_keys))["chosen_action_value"]
    torch.testing.assert_close(terms["q_mean"], largest.mean())
    eager, recorded = (make_gradient(loss, list(actor.parameters()), kind) for kind in ("eager", "recorded"))
    for _ in range(recorder._REPEATS + 3):
        minibatch = batch[torch.randperm(len(batch))[:16]]
        assert all(map(torch.equal, eager(minibatch)[0], recorded(minibatch)[0]))
    assert len(recorded._recordings) == 1


def test_actions_that_do_not_fit_are_named():
    loss = DQNLoss(dqn(multi_discrete(ENVS)))
    batch = dqn(multi_discrete(ENVS))(collected())
    with pytest.raises(ValueError, match=r"key 'action' has dtype torch.float32 .* torch.int64 and \[4, 8, 3\]"):
        loss(batch.clone().set("action", batch["action"].float()))
    actor, critic = networks("dict")
    made = GAE(critic)(collected(actor)).reshape(-1)
    with pytest.raises(ValueError, match="key 'action' with the entries .* has no log-probability under JointActor"):
        ClipPPOLoss(actor, critic)(made.clone().set("action", made["action"].exclude("move")))


def test_a_policy_term_reaches_the_actor_alone():
    actor, critic = networks("dict")
    loss = ClipPPOLoss(actor, critic, entropy_coefficient=0.1)
    batch = GAE(critic)(collected(actor)).reshape(-1)
    before = batch.clone()
    terms = loss(batch)
    (terms["loss_policy"] + terms["loss_entropy"]).backward()
    assert critic.network[-1].weight.grad is None
    assert (actor.network[-1].weight.grad.abs().sum(-1) > 0).all()
    assert (batch == before).all()
