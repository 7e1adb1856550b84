"""Policies over several choices: their distributions beside PyTorch's, masks, and what they write and refuse."""

import itertools

import pytest
import torch
from hypothesis import given
from spaces import box, discrete, entries, every_action, every_kind, multi_binary, multi_discrete, specs
from tensordict import TensorDict
from torch import distributions, nn
from torchrl.data import Categorical, Composite, NonTensor
from torchrl.envs.utils import ExplorationType, set_exploration_type

from rlpipe.modules import (
    MLP,
    ActionValueCritic,
    Bernoulli,
    BernoulliActor,
    CategoricalActor,
    Critic,
    GaussianActor,
    JointActor,
    MultiCategoricalActor,
    Network,
    Shared,
    computed_once,
    encoder,
    policy_outputs,
    stochastic_actor,
)

BATCH = 64
NVECS = [(2, 4, 3), (3, 3), (5,), ((2, 3), (4, 2)), (1, 2)]


def numbers(*shape, scale=2.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def multi(nvec, **options):
    return MultiCategoricalActor(nn.Identity(), multi_discrete(BATCH, nvec), **options)


@pytest.mark.parametrize("nvec", NVECS)
def test_multi_categorical_is_independent_categoricals(nvec):
    actor, sizes = multi(nvec), torch.tensor(nvec).flatten().tolist()
    logits = numbers(BATCH, sum(sizes)).requires_grad_()
    ours = actor.distribution(logits)
    theirs = [distributions.Categorical(logits=each) for each in logits.split(sizes, -1)]
    action = ours.draw(torch.Generator().manual_seed(1))
    assert action.shape == (BATCH, *torch.tensor(nvec).shape)
    parts = action.flatten(1).unbind(-1)
    expected = sum(part.log_prob(each) for part, each in zip(theirs, parts, strict=True))
    torch.testing.assert_close(ours.log_prob(action), expected)
    torch.testing.assert_close(ours.entropy(), sum(part.entropy() for part in theirs))
    assert torch.equal(ours.mode.flatten(1), torch.stack([part.logits.argmax(-1) for part in theirs], -1))
    gradients = [
        torch.autograd.grad((log_prob + entropy).sum(), logits, retain_graph=True)[0]
        for log_prob, entropy in (
            (ours.log_prob(action), ours.entropy()),
            (expected, sum(part.entropy() for part in theirs)),
        )
    ]
    torch.testing.assert_close(*gradients)
    assert gradients[0].isfinite().all()


def test_multi_categorical_draws_its_probabilities():
    logits = numbers(1, 9).expand(20_000, 9)
    actor = MultiCategoricalActor(nn.Identity(), multi_discrete(20_000))
    ours = actor.distribution(logits)
    for drawn in (ours.draw(torch.Generator().manual_seed(0)), ours.sample()):
        for column, each in zip(drawn.unbind(-1), logits[:1].split([2, 4, 3], -1), strict=True):
            share = torch.bincount(column, minlength=each.shape[-1]) / 20_000
            torch.testing.assert_close(share, each.softmax(-1)[0], rtol=0, atol=0.02)
    assert ours.sample((3,)).shape == (3, 20_000, 3)
    assert ours.log_prob(ours.sample((3,))).shape == (3, 20_000)


def test_bernoulli_is_pytorchs():
    logits = numbers(BATCH, 2, 3, scale=20.0).requires_grad_()
    actor = BernoulliActor(nn.Flatten(-2), multi_binary(BATCH, (2, 3)))
    ours = actor.distribution(logits)
    theirs = distributions.Independent(distributions.Bernoulli(logits=logits), 2)
    action = ours.draw(torch.Generator().manual_seed(1))
    assert (action.dtype, action.shape) == (torch.int8, (BATCH, 2, 3))
    torch.testing.assert_close(ours.log_prob(action), theirs.log_prob(action.float()))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    assert torch.equal(ours.mode, (logits > 0).to(torch.int8))
    (gradient,) = torch.autograd.grad((ours.log_prob(action) + ours.entropy()).sum(), logits)
    assert gradient.isfinite().all()
    for drawn in (ours.draw(torch.Generator().manual_seed(0)), ours.sample()):
        # the logits are large
        assert (drawn == ours.mode).float().mean() > 0.9
    assert ours.sample((3,)).shape == (3, BATCH, 2, 3)


def test_bernoulli_of_extreme_logits_is_finite():
    ours = Bernoulli(torch.tensor([[100.0, -100.0]]))
    assert ours.log_prob(torch.tensor([[1, 0]])).item() == pytest.approx(0.0)
    assert ours.log_prob(torch.tensor([[0, 1]])).item() == -200.0
    assert ours.entropy().item() == pytest.approx(0.0)


# every mask of choices of 2 and 3, under random scores
MASKS = torch.tensor(list(itertools.product([False, True], repeat=5)))


def test_each_choice_has_its_own_part_of_the_mask():
    spec = multi_discrete(32, (2, 3))
    actor = MultiCategoricalActor(nn.Identity(), spec, masked=True)
    assert actor.in_keys == ["observation", "action_mask"]
    logits = numbers(32, 5).requires_grad_()
    ours = actor.distribution(logits, MASKS)
    total = 0.0
    for each, mask, part in zip(logits.split([2, 3], -1), MASKS.split([2, 3], -1), (0, 1), strict=True):
        free = mask | ~mask.any(-1, keepdim=True)
        expected = distributions.Categorical(logits=each.masked_fill(~free, -1e30))
        chosen = ours.draw(torch.Generator().manual_seed(0))[:, part]
        assert free.gather(-1, chosen.unsqueeze(-1)).all()
        total = total + expected.entropy()
    torch.testing.assert_close(ours.entropy(), total)
    ours.entropy().sum().backward()
    assert logits.grad.isfinite().all()


def joint(spec, masked=False, inputs=6, **options):
    torch.manual_seed(0)
    network = MLP(inputs, policy_outputs(spec), (8,))
    return stochastic_actor(network, spec, torch.Generator().manual_seed(7), masked, **options)


def observations(inputs=6):
    return TensorDict({"observation": numbers(BATCH, inputs)}, [BATCH])


@pytest.mark.parametrize("kind", [ExplorationType.RANDOM, ExplorationType.DETERMINISTIC])
def test_a_joint_action_is_written_by_entry_and_its_log_probs_are_added(kind):
    spec = every_action(BATCH)
    actor = joint(spec)
    assert isinstance(actor, JointActor)
    keys = [("action", "move"), ("action", "arm", "force"), ("action", "arm", "grip"), ("action", "0")]
    assert actor.out_keys == [*keys, "action_log_prob"]
    with set_exploration_type(kind):
        out = actor(observations())
    assert spec.is_in(out.select("action"))
    assert out["action_log_prob"].shape == (BATCH,)
    distribution = actor.get_dist(observations())
    assert torch.equal(distribution.log_prob(out["action"]), out["action_log_prob"])
    action = {key[1] if len(key) == 2 else key[1:]: out[key] for key in keys}
    assert torch.equal(distribution.log_prob(action), out["action_log_prob"])


def test_a_joint_distribution_is_that_of_its_parts():
    spec = every_action(BATCH)
    actor = joint(spec)
    outputs = actor.network(observations()["observation"])
    ours, action = actor.distribution(observations()["observation"]), spec.rand()["action"]
    log_prob = entropy = 0.0
    for (name, leaf), chunk in zip(spec["action"].items(True, True), outputs.split([3, 2, 2, 11], -1), strict=True):
        alone = stochastic_actor(nn.Identity(), leaf).distribution(chunk)
        log_prob, entropy = log_prob + alone.log_prob(action[name]), entropy + alone.entropy()
        assert torch.equal(ours.mode[name], alone.mode)
    assert torch.equal(ours.log_prob(action), log_prob)
    assert torch.equal(ours.entropy(), entropy)
    assert not ours.has_rsample
    assert {key: value.shape[1:] for key, value in ours.sample((3,)).items()} == {
        key: value.shape for key, value in ours.mode.items()
    }


def test_boxes_alone_have_reparameterised_samples():
    spec = entries(BATCH, left=box(BATCH, (2,)), right=box(BATCH, (), low=0.0, high=float("inf")))
    actor = joint(spec)
    drawn = actor.get_dist(observations()).rsample()
    assert actor.get_dist(observations()).has_rsample
    (drawn["left"].sum() + drawn["right"].sum()).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in actor.network.parameters())
    assert policy_outputs(spec, state_dependent_std=True) == 2 * policy_outputs(spec) == 6


def test_a_joint_actor_draws_from_its_own_generator():
    drawn = []
    for global_seed in (1, 2):
        actor = joint(every_action(BATCH))
        torch.manual_seed(global_seed)
        with set_exploration_type(ExplorationType.RANDOM):
            drawn.append(actor(observations()))
    assert (drawn[0] == drawn[1]).all()


def test_the_masks_of_entries_lie_side_by_side():
    spec = entries(BATCH, move=discrete(BATCH, 2), dials=multi_discrete(BATCH, (2, 3)))
    actor = joint(spec, masked=True)
    mask = torch.tensor([False, True, True, False, False, False, True]).expand(BATCH, 7)
    with set_exploration_type(ExplorationType.RANDOM):
        out = actor(observations().set("action_mask", mask))
    assert (out["action", "move"] == 1).all()
    assert (out["action", "dials"] == torch.tensor([0, 2])).all()
    assert (out["action_log_prob"].abs() < 1e-6).all()


def test_a_dict_of_one_entry_keeps_its_name():
    for name in ("move", "action"):
        spec = entries(BATCH, action=entries(BATCH, **{name: discrete(BATCH)}))
        actor = joint(spec)
        assert actor.out_keys == [("action", name), "action_log_prob"]
        assert spec.is_in(actor(observations()).select("action"))


@pytest.mark.parametrize(
    ("spec", "kind", "outputs"),
    [
        (discrete(2), CategoricalActor, 3),
        (multi_discrete(2), MultiCategoricalActor, 9),
        (Categorical(4, (2, 1)), MultiCategoricalActor, 4),
        (multi_binary(2), BernoulliActor, 4),
        (box(2), GaussianActor, 3),
        (entries(2, action=box(2)), GaussianActor, 3),
        (every_action(2), JointActor, 18),
    ],
)
def test_one_function_makes_the_policy_of_each_kind(spec, kind, outputs):
    assert policy_outputs(spec) == outputs
    assert type(stochastic_actor(nn.Identity(), spec)) is kind


MASK = "an action_mask is for Discrete and MultiDiscrete actions; this one is"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: stochastic_actor(nn.Identity(), multi_binary(2), masked=True), f"{MASK} MultiBinary"),
        (lambda: stochastic_actor(nn.Identity(), box(2), masked=True), f"{MASK} a Box"),
        (lambda: stochastic_actor(nn.Identity(), every_action(2), masked=True), f"{MASK} a Box"),
        (lambda: MultiCategoricalActor(nn.Identity(), box(2)), "MultiCategoricalActor needs MultiDiscrete .* is a Box"),
        (lambda: BernoulliActor(nn.Identity(), multi_discrete(2)), "BernoulliActor needs MultiBinary .* MultiDiscrete"),
        (lambda: JointActor(nn.Identity(), box(2)), "JointActor needs Dict or Tuple actions, .* is a Box"),
        (lambda: CategoricalActor(nn.Identity(), multi_discrete(2)), "needs Discrete actions .* got MultiCategorical"),
        (lambda: stochastic_actor(nn.Identity(), NonTensor((2,))), "got NonTensor"),
        (lambda: multi((2, 3))(observations()), "gives 6 numbers, expected 5: one for each value of each choice"),
        (lambda: joint(every_action(2)).from_outputs(torch.zeros(2, 17)), "expected 18: policy_outputs"),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_every_output_of_the_network_gets_a_gradient():
    """Of the log-probability of a sampled action: no part of the action is left out."""
    actor = stochastic_actor(nn.Identity(), every_action(BATCH), torch.Generator().manual_seed(0))
    outputs = numbers(BATCH, 18).requires_grad_()
    distribution = actor.distribution(outputs)
    (gradient,) = torch.autograd.grad(
        distribution.log_prob(distribution.draw(torch.Generator().manual_seed(0))).sum(), outputs
    )
    assert (gradient.abs().sum(0) > 0).all()


def test_networks_take_several_entries():
    spec = every_kind(BATCH)
    first = encoder(spec)
    actor = stochastic_actor(Network(first, *MLP(first.features, 3, (8,))), discrete(BATCH))
    critic = Critic(Network(first, *MLP(first.features, 1, (8,))))
    assert actor.in_keys == critic.in_keys == first.in_keys
    out = critic(actor(TensorDict(spec.rand(), [BATCH])))
    assert out["state_value"].shape == (BATCH, 1)
    with pytest.raises(ValueError, match="nn.Sequential passes on one tensor; make it a rlpipe.modules.Network"):
        Critic(nn.Sequential(first, nn.Linear(first.features, 1)))
    with pytest.raises(KeyError, match=r"reads key \('robot', 'camera'\), and the TensorDict has only"):
        actor(TensorDict({"position": torch.zeros(BATCH, 2)}, [BATCH]))
    with pytest.raises(
        ValueError, match=r"cannot take key 'position' of shape \[64, 3\] .*, key \('robot', 'camera'\)"
    ):
        actor(TensorDict(spec.rand(), [BATCH]).set("position", torch.zeros(BATCH, 3)))


@given(specs(2, actions=True))
def test_samples_are_in_the_space_and_have_a_density(spec):
    full = Composite({"action": spec}, shape=(2,))
    actor = stochastic_actor(nn.Identity(), full, torch.Generator().manual_seed(0))
    outputs = numbers(2, policy_outputs(full))
    for kind in (ExplorationType.RANDOM, ExplorationType.DETERMINISTIC):
        with set_exploration_type(kind):
            out = actor(TensorDict({"observation": outputs}, [2]))
        assert out["action_log_prob"].shape == (2,)
        assert out["action_log_prob"].isfinite().all()
        for key, leaf in full.items(True, True):
            assert out[key].shape == leaf.shape
            assert leaf.is_in(out[key].to(leaf.dtype))
    assert actor.distribution(outputs).entropy().isfinite().all()


def test_the_value_of_an_action_in_any_observation():
    spec = every_kind(BATCH)
    first = encoder(spec)
    critic = ActionValueCritic(MLP(first.features + 3, 1, (8,)), box(BATCH), encoder=first)
    assert critic.in_keys == [*first.in_keys, "action"]
    batch = TensorDict(spec.rand(), [BATCH]).set("action", box(BATCH).rand())
    features = first(*[batch[key] for key in first.in_keys])
    expected = critic.network(torch.cat([features, batch["action"]], -1))
    assert torch.equal(critic(batch)["state_action_value"], expected)
    with pytest.raises(ValueError, match=r"has shape .64, 2., expected .64, 3. with features of shape"):
        critic(batch.set("action", torch.zeros(BATCH, 2)))


@pytest.mark.parametrize("same", [True, False])
def test_shared_layers_compute_the_same_tensors_once(same):
    shared, calls = Shared(encoder(every_kind(2))), []
    shared[0].register_forward_hook(lambda *_: calls.append(1))
    seen = TensorDict(every_kind(2).rand(), [2])
    entries_of = [seen[key] for key in shared.in_keys]
    with computed_once(shared):
        one = shared(*entries_of)
        other = shared(*(entries_of if same else [*entries_of[:-1], entries_of[-1].clone()]))
    assert torch.equal(one, other)
    assert len(calls) == (1 if same else 2)
