"""SACLoss: numbers by hand, TorchRL's values and gradients, what each term reaches, and its messages."""

import math

import pytest
import torch
from box_losses import (
    SPEC,
    assert_same_gradients,
    make_critics,
    make_gaussian,
    perturb,
    random_batch,
    reached,
    stacked,
)
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.data import Bounded
from torchrl.modules import ProbabilisticActor, ValueOperator
from torchrl.modules import TanhNormal as StockTanhNormal
from torchrl.objectives import SACLoss as StockSACLoss

from rlpipe.losses import SACLoss
from rlpipe.modules import MLP, DeterministicActor


def make_loss(**options):
    return SACLoss(make_gaussian(), make_critics(), **options)


def seeded(loss, batch):
    torch.manual_seed(0)
    return loss(batch)


class Chosen(nn.Module):
    """An actor whose action and log-probability are given."""

    in_keys = out_keys = ["observation"]

    class Distribution:
        has_rsample = True

        def __init__(self, action, log_prob):
            self.both = action, log_prob

        def rsample_and_log_prob(self):
            return self.both

    def get_dist(self, batch):
        action = 0.5 * batch["observation"]
        return self.Distribution(action, action.squeeze(-1) - 1.0)


class Times(nn.Module):
    """`Q(s, a)` is a number times the action."""

    in_keys, out_keys = ["observation", "action"], ["state_action_value"]

    def __init__(self, factor):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, batch):
        return batch.set("state_action_value", self.factor * batch["action"])


@pytest.mark.parametrize("terminated", [False, True])
def test_one_transition_by_hand(terminated):
    options = {"gamma": 0.5, "alpha": 0.25, "target_entropy": -1.0, "log_scale": 0.5}
    loss = SACLoss(Chosen(), nn.ModuleList([Times(2.0), Times(3.0)]), **options)
    following = {"observation": torch.tensor([[4.0]]), "reward": torch.tensor([[1.0]])}
    after = TensorDict({**following, "terminated": torch.tensor([[terminated]])}, [1])
    batch = TensorDict({"observation": torch.tensor([[-2.0]]), "action": torch.tensor([[1.0]]), "next": after}, [1])
    out = loss(batch)
    # in the next state the action is 2 with log-probability 1, worth 4 and 6; in this one it is -1 with -2; the unit of
    # actions adds 0.5 to both
    target = 1.0 if terminated else 1.0 + 0.5 * (4.0 - 0.25 * 1.5)
    assert out["loss_td"].item() == pytest.approx((target - 2.0) ** 2 + (target - 3.0) ** 2)
    assert out["td_error"].item() == pytest.approx((abs(target - 2.0) + abs(target - 3.0)) / 2)
    assert out["q_mean"].item() == 2.5
    assert out["loss_policy"].item() == pytest.approx(0.25 * -1.5 - -3.0)
    assert out["entropy"].item() == 1.5
    assert out["alpha"].item() == pytest.approx(0.25)
    assert out["loss_alpha"].item() == pytest.approx(-math.log(0.25) * (-1.5 - 1.0))


@pytest.mark.filterwarnings("ignore:No target network updater")
@pytest.mark.parametrize("n_step", [False, True])
def test_values_and_gradients_are_torchrls(n_step):
    gamma = 0.9
    ours = make_loss(gamma=0.1 if n_step else gamma, alpha=0.3, target_entropy=-2.0, n_step=n_step)
    stock = StockSACLoss(make_gaussian(), list(make_critics()), loss_function="l2", alpha_init=0.3, target_entropy=-2.0)
    stock.make_value_estimator(gamma=gamma)
    perturb(ours.critics)
    stock.qvalue_network_params.data.update_(stacked(ours.critics))
    batch = random_batch(32)
    results = []
    for loss in (ours, stock):
        torch.manual_seed(7)
        out = loss(batch.copy())
        sum(value for key, value in out.items() if key.startswith("loss")).backward()
        results.append(out)
    mine, theirs = results
    pairs = {"loss_td": "loss_qvalue", "loss_policy": "loss_actor", "loss_alpha": "loss_alpha"}
    pairs |= {"alpha": "alpha", "entropy": "entropy"}
    for one, other in pairs.items():
        torch.testing.assert_close(mine[one], theirs[other], msg=one)
    assert_same_gradients(ours.critics, stock.qvalue_network_params)
    for name, their in stock.actor_network_params.flatten_keys(".").items():
        if their.requires_grad:
            torch.testing.assert_close(ours.actor.get_parameter(name).grad, their.grad)
    torch.testing.assert_close(ours.log_alpha.grad, stock.log_alpha.grad)


def test_it_takes_actors_and_critics_of_torchrl():
    def outputs(observation):
        return observation[..., :2].clone(), observation[..., 1:].exp()

    module = TensorDictModule(outputs, in_keys=["observation"], out_keys=["loc", "scale"])
    actor = ProbabilisticActor(
        module,
        in_keys=["loc", "scale"],
        spec=Bounded(-1.0, 1.0, (2,)),
        distribution_class=StockTanhNormal,
        distribution_kwargs={"low": -1.0, "high": 1.0},
    )

    class Network(MLP):
        def forward(self, *inputs):
            return super().forward(torch.cat(inputs, -1))

    critics = nn.ModuleList(ValueOperator(Network(5, 1), in_keys=["observation", "action"]) for _ in range(2))
    loss = SACLoss(actor, critics, target_entropy=-2.0)
    out = loss(random_batch(8))
    assert all(each.isfinite() for each in out.values())


@pytest.mark.parametrize(
    ("term", "owner"), [("loss_td", "critics."), ("loss_policy", "actor."), ("loss_alpha", "log_alpha")]
)
def test_each_loss_reaches_its_own_parameters_only(term, owner):
    loss = make_loss(target_entropy=-2.0)
    loss(random_batch(16))[term].backward()
    assert reached(loss) == {name for name, _ in loss.named_parameters() if name.startswith(owner)}


def test_the_input_stays_as_it_is():
    batch = random_batch(16)
    before = batch.clone()
    make_loss(target_entropy=-2.0)(batch)
    assert set(batch.keys(True, True)) == set(before.keys(True, True))
    assert (batch == before).all()


def test_a_fixed_temperature_is_no_parameter():
    loss = make_loss(alpha=0.5)
    out = loss(random_batch(16))
    assert "loss_alpha" not in out
    assert set(out.keys()) == set(loss.out_keys)
    assert out["alpha"].item() == 0.5
    assert not any("alpha" in name for name, _ in loss.named_parameters())


def test_a_batch_may_have_several_dimensions():
    loss = make_loss(target_entropy=-2.0)
    flat, folded = seeded(loss, random_batch(16)), seeded(loss, random_batch(16).reshape(4, 4))
    for key, value in flat.items():
        torch.testing.assert_close(folded[key], value)


def test_keys_can_be_changed():
    loss = make_loss(target_entropy=-2.0)
    assert loss.in_keys == [
        "action",
        "observation",
        *(("next", key) for key in ("observation", "reward", "terminated")),
    ]
    loss.set_keys(reward="score", terminated=("ends", "here"))
    assert loss.in_keys[3:] == [("next", "score"), ("next", "ends", "here")]
    batch = random_batch(16)
    batch["next", "score"] = batch["next"].pop("reward")
    batch["next", "ends", "here"] = batch["next"].pop("terminated")
    assert seeded(loss, batch)["loss_td"] == seeded(make_loss(target_entropy=-2.0), random_batch(16))["loss_td"]


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match="alpha is 0; a temperature that is learned begins above 0"):
        make_loss(alpha=0, target_entropy=-2.0)
    loss, batch = make_loss(), random_batch(16)
    with pytest.raises(KeyError, match="the batch has no key 'reward'"):
        loss(batch.exclude(("next", "reward")))
    with pytest.raises(ValueError, match=r"key 'reward' has shape \[16\], expected \[16, 1\]"):
        loss(batch.copy().set(("next", "reward"), torch.zeros(16)))
    with pytest.raises(TypeError, match="DeterministicActor, which has no get_dist"):
        SACLoss(DeterministicActor(MLP(3, 2), SPEC), make_critics())(batch)
