"""TD3's losses: numbers by hand, TorchRL's values and gradients, what each reaches, and their messages."""

import pytest
import torch
from box_losses import (
    HALF,
    SPEC,
    assert_same_gradients,
    make_critics,
    make_deterministic,
    perturb,
    random_batch,
    reached,
    stacked,
)
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.data import Bounded
from torchrl.objectives import SoftUpdate
from torchrl.objectives import TD3Loss as StockTD3Loss

from rlpipe.losses import TargetUpdate, TD3ActorLoss, TD3CriticLoss
from rlpipe.modules import MLP


def make_loss(**options):
    return TD3CriticLoss(make_deterministic(), make_critics(), **options)


@pytest.mark.filterwarnings("ignore:No target network updater")
@pytest.mark.parametrize("n_step", [False, True])
def test_values_and_gradients_are_torchrls(n_step):
    """Their noise is in the action's own units, so all actions are between -1 and 1 here."""
    unit = Bounded(-1.0, 1.0, (16, 2))
    torch.manual_seed(1)
    actor = type(make_deterministic())(MLP(3, 2, (16,)), unit)
    gamma = 0.9
    stock = StockTD3Loss(
        actor, list(make_critics()), bounds=(-1.0, 1.0), policy_noise=0.4, noise_clip=0.5, loss_function="l2"
    )
    stock.make_value_estimator(gamma=gamma)
    ours = TD3CriticLoss(actor, make_critics(), gamma=0.1 if n_step else gamma, noise=0.4, n_step=n_step)
    perturb(ours.critics)
    stock.qvalue_network_params.data.update_(stacked(ours.critics))
    batch = random_batch(32)
    torch.manual_seed(7)
    mine = ours(batch)["loss_td"]
    torch.manual_seed(7)
    theirs = stock(batch.copy())
    torch.testing.assert_close(mine, theirs["loss_qvalue"])
    policy = TD3ActorLoss(ours.actor, ours.critics[0])(batch)["loss_policy"]
    torch.testing.assert_close(policy, theirs["loss_actor"])
    (mine + policy).backward()
    (theirs["loss_qvalue"] + theirs["loss_actor"]).backward()
    assert_same_gradients(ours.critics, stock.qvalue_network_params)
    for name, their in stock.actor_network_params.flatten_keys(".").items():
        if their.requires_grad:
            torch.testing.assert_close(ours.actor.get_parameter(name).grad, their.grad)


@pytest.mark.parametrize("noise", [0.0, 0.2, 5.0])
def test_by_hand(noise):
    """The smaller of two targets at a noisy action, in units of half the range, and nothing beyond the terminal."""
    loss, batch = make_loss(gamma=0.9, noise=noise, noise_clip=0.5), random_batch(32)
    perturb(loss.critics)
    perturb(loss.actor)
    after = batch["next"]
    torch.manual_seed(1)
    eps = (noise * torch.randn(32, 2)).clamp(-0.5, 0.5) * HALF
    (greedy,) = loss.target_actor.compute(after["observation"])
    action = (greedy + eps).clamp(-HALF, HALF)
    values = [each.compute(after["observation"], action)[0] for each in loss.target_critics]
    target = after["reward"] + 0.9 * ~after["terminated"] * torch.minimum(*values)
    errors = [each.compute(batch["observation"], batch["action"])[0] - target for each in loss.critics]
    torch.manual_seed(1)
    out = loss(batch)
    torch.testing.assert_close(out["loss_td"], sum(each.square().mean() for each in errors))
    torch.testing.assert_close(out["td_error"], torch.stack(errors).abs().mean())
    torch.testing.assert_close(out["q_mean"], torch.stack([each + target for each in errors]).mean())


def test_each_loss_reaches_its_own_parameters_only():
    loss, batch = make_loss(), random_batch(16)
    loss(batch)["loss_td"].backward()
    assert reached(loss) == {name for name, _ in loss.named_parameters() if name.startswith("critics.")}
    loss.zero_grad()
    TD3ActorLoss(loss.actor, loss.critics[0])(batch)["loss_policy"].backward()
    assert reached(loss) == {name for name, _ in loss.named_parameters() if name.startswith("actor.")}
    assert all(each.requires_grad for each in loss.critics.parameters())


def test_the_input_stays_as_it_is():
    loss, batch = make_loss(), random_batch(16)
    before = batch.clone()
    loss(batch)
    TD3ActorLoss(loss.actor, loss.critics[0])(batch)
    assert set(batch.keys(True, True)) == set(before.keys(True, True))
    assert (batch == before).all()


def test_targets_of_actor_and_critics_can_be_moved():
    loss, other = make_loss(), make_loss()
    stock = SoftUpdate(loss, tau=0.25)
    for each in (loss, other):
        perturb(each.actor)
        perturb(each.critics)
    stock.step()
    for name in ("actor", "critics"):
        TargetUpdate(getattr(other, name), getattr(other, f"target_{name}"), tau=0.25)()
    assert all(torch.allclose(one, two) for one, two in zip(loss.parameters(), other.parameters(), strict=True))


def test_keys_can_be_changed():
    loss = make_loss(n_step=True)
    assert loss.in_keys == ["action", "observation", *(("next", key) for key in ("observation", "reward", "discount"))]
    policy = TD3ActorLoss(loss.actor, loss.critics[0])
    assert (policy.in_keys, policy.out_keys) == (["observation"], ["loss_policy"])
    loss.set_keys(discount="factor")
    batch = random_batch(16)
    batch["next", "factor"] = batch["next"].pop("discount")
    assert loss(batch)["loss_td"].isfinite()


def test_an_actor_without_bounds_needs_them():
    actor = TensorDictModule(MLP(3, 2, (16,)), in_keys=["observation"], out_keys=["action"])
    with pytest.raises(ValueError, match=r"is a TensorDictModule, which does not tell .*bounds=\(low, high\)"):
        TD3CriticLoss(actor, make_critics())
    loss = TD3CriticLoss(actor, make_critics(), bounds=(-HALF, HALF))
    assert loss(random_batch(16))["loss_td"].isfinite()


def test_a_dimension_without_bounds_has_noise_in_its_own_units():
    low, high = -HALF.clone(), HALF.clone()
    high[0] = torch.inf
    loss = TD3CriticLoss(make_deterministic(), make_critics(), bounds=(low, high))
    assert loss.unit.tolist() == [1.0, 0.5]
    assert SPEC.shape == (16, 2)


@pytest.mark.parametrize(("wrap", "named"), [(list, "a list"), (next, "a "), (lambda _: nn.ModuleList(), "an empty")])
def test_critics_that_are_no_module_list_are_refused(wrap, named):
    with pytest.raises(ValueError, match=f"TD3CriticLoss was given {named}.*; expected nn.ModuleList"):
        TD3CriticLoss(make_deterministic(), wrap(iter(make_critics())))
