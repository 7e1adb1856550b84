"""The keys of losses and advantages: TorchRL's names, changed by `set_keys`, and followed by all that reads them."""

from dataclasses import asdict

import pytest
import torch
from small_losses import ACTIONS, make_network, random_batch
from tensordict.nn import TensorDictModule, TensorDictSequential
from torchrl.data import Bounded, Categorical, Composite
from torchrl.modules import ProbabilisticActor
from torchrl.objectives import A2CLoss as StockA2CLoss
from torchrl.objectives import ClipPPOLoss as StockClipPPOLoss
from torchrl.objectives import DQNLoss as StockDQNLoss
from torchrl.objectives import ReinforceLoss as StockReinforceLoss
from torchrl.objectives.value import GAE as StockGAE

from rlpipe.losses import GAE, A2CLoss, ClipPPOLoss, DQNLoss, NStep, QRDQNLoss, ReinforceLoss, ReturnToGo
from rlpipe.modules import CategoricalActor, Critic, QActor, QuantileActor, policy_outputs, stochastic_actor
from rlpipe.pipelines.updates.recorder import make_gradient


def actor_and_critic():
    return CategoricalActor(make_network(3, 1), ACTIONS), Critic(make_network(1, 2))


def q_actor():
    return QActor(make_network(3, 1), ACTIONS)


def transitions(*shape):
    batch = random_batch(*shape)
    generator = torch.Generator().manual_seed(1)
    terminated, truncated = (torch.rand(2, *shape, 1, generator=generator) < 0.2).unbind(0)
    batch["next"] = {
        "observation": torch.randn(*shape, 4, generator=generator),
        "reward": torch.randn(*shape, 1, generator=generator),
        "terminated": terminated,
        "done": terminated | truncated,
        "discount": 0.9 * ~terminated,
    }
    batch["priority_weight"] = torch.rand(shape, generator=generator)
    batch["episode"] = torch.randint(2, (*shape, 1), generator=generator)
    return batch


MAKE = {
    "ppo": lambda: ClipPPOLoss(*actor_and_critic(), value_clip=0.2),
    "a2c": lambda: A2CLoss(*actor_and_critic()),
    "reinforce": lambda: ReinforceLoss(*actor_and_critic(), normalize="episode"),
    "dqn": lambda: DQNLoss(q_actor(), prioritized=True),
    "dqn-n-step": lambda: DQNLoss(q_actor(), n_step=True),
    "qr-dqn": lambda: QRDQNLoss(QuantileActor(make_network(6, 1), ACTIONS, 2), prioritized=True),
    "gae": lambda: GAE(actor_and_critic()[1]),
    "n-step": lambda: NStep(gamma=0.9, n=2),
    "return": lambda: ReturnToGo(actor_and_critic()[1], gamma=0.9),
}
AFTER = {"reward", "done", "terminated", "discount"}
LOSSES = {"ppo", "a2c", "reinforce", "dqn", "dqn-n-step", "qr-dqn"}


def rename(batch, old, new):
    """Rename what is there."""
    for key, other in zip(old.values(), new.values(), strict=True):
        if key in batch.keys(True):
            batch.rename_key_(key, other)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("name", MAKE)
def test_all_keys_can_have_other_names(name, nested, identical):
    plain, other = MAKE[name](), MAKE[name]()
    fixed = {"value", "action_value", "quantiles"}  # what the networks write
    old = {each: key for each, key in asdict(plain.tensor_keys).items() if each not in fixed}
    new = {each: ("deep", f"my_{each}") if nested else f"my_{each}" for each in old}
    other.set_keys(**new)
    assert asdict(other.tensor_keys) == {**asdict(plain.tensor_keys), **new}
    batch = transitions(2, 16)
    renamed = batch.clone()
    rename(renamed["next"], *({each: keys[each] for each in keys if each in AFTER} for keys in (old, new)))
    rename(renamed, *({each: keys[each] for each in keys if each not in AFTER} for keys in (old, new)))
    expected, actual = plain(batch.select(*plain.in_keys)), other(renamed.select(*other.in_keys))
    if name in LOSSES:
        rename(expected, {"priority": "priority"}, {"priority": new.get("priority", "priority")})
        assert set(other.out_keys) == set(actual.keys(True, True)) - {"deep"}
        identical(actual, expected)
        return
    assert all(key in actual.keys(True) for key in other.out_keys)
    for mine, theirs in zip(plain.out_keys, other.out_keys, strict=True):
        assert torch.equal(actual[theirs], expected[mine])


@pytest.mark.parametrize("name", ["ppo", "a2c", "reinforce", "gae", "return"])
def test_a_critic_may_write_any_key(name):
    plain, other = MAKE[name](), MAKE[name]()
    critic = TensorDictModule(other.critic.network, in_keys=["observation"], out_keys=["worth"])
    other.critic = critic
    batch = transitions(2, 16)
    with pytest.raises(KeyError, match=r"a TensorDictModule, writes worth, and no state_value; .* set_keys\(value="):
        other(batch.clone())
    other.set_keys(value="worth")
    batch["worth"] = batch["state_value"]
    expected, actual = plain(batch.select(*plain.in_keys)), other(batch.select(*other.in_keys))
    if name in LOSSES:
        assert torch.equal(actual["loss_value"], expected["loss_value"])
    else:
        assert torch.equal(actual["worth"], expected["state_value"])
        assert torch.equal(actual["advantage"], expected["advantage"])


def test_a_q_network_may_write_any_key():
    plain, other = MAKE["dqn"](), MAKE["dqn"]()
    network = TensorDictModule(other.q_network.network, in_keys=["observation"], out_keys=["worths"])
    other = DQNLoss(network, prioritized=True)
    other.set_keys(action_value="worths")
    assert torch.equal(other(transitions(32))["loss_td"], plain(transitions(32))["loss_td"])


def test_a_stock_actor_tells_its_keys():
    logits = TensorDictModule(make_network(3, 1), in_keys=["observation"], out_keys=["logits"])
    actor = ProbabilisticActor(
        logits,
        in_keys=["logits"],
        out_keys=["move"],
        distribution_class=torch.distributions.Categorical,
        return_log_prob=True,
        log_prob_keys=["sample_log_prob"],
    )
    loss = ClipPPOLoss(actor, actor_and_critic()[1], value_clip=0.2)
    assert loss.tensor_keys.action == "move"
    assert loss.tensor_keys.sample_log_prob == "sample_log_prob"
    batch = random_batch(32)
    expected = MAKE["ppo"]()(batch)
    rename(batch, {1: "action", 2: "action_log_prob"}, {1: "move", 2: "sample_log_prob"})
    actual = loss(batch.select(*loss.in_keys))
    for key in expected.keys():
        torch.testing.assert_close(actual[key], expected[key])


@pytest.mark.parametrize("sequence", [False, True])
def test_our_actor_tells_its_keys(sequence):
    actor, critic = actor_and_critic()
    actor.out_keys = ["move", ("deep", "log_prob")]
    loss = ClipPPOLoss(TensorDictSequential(actor) if sequence else actor, critic)
    assert loss.in_keys == ["observation", "move", ("deep", "log_prob"), "advantage", "value_target"]
    batch = actor(random_batch(32).exclude("action", "action_log_prob")).detach()
    assert loss(batch)["approx_kl"] == 0.0
    loss.set_keys(action=None, sample_log_prob="other")
    assert loss.in_keys[1:3] == ["action", "other"]


def test_the_entries_of_a_dict_action_are_read_under_its_key():
    spec = Composite({"arm": Bounded(-1.0, 1.0, (32, 2)), "grip": Categorical(3, (32,))}, shape=(32,))
    actor = stochastic_actor(make_network(policy_outputs(spec), 1), spec)
    loss = A2CLoss(actor, actor_and_critic()[1])
    batch = actor(random_batch(32).exclude("action")).detach()
    expected = loss(batch)
    assert loss.in_keys[1:3] == [("action", "arm"), ("action", "grip")]
    actor.out_keys = [("my", "arm"), ("my", "grip"), "action_log_prob"]
    loss.set_keys(action="my")
    assert loss.in_keys[1:3] == [("my", "arm"), ("my", "grip")]
    batch.rename_key_("action", "my")
    assert torch.equal(loss(batch.select(*loss.in_keys))["loss_policy"], expected["loss_policy"])


@pytest.mark.parametrize(
    ("name", "stock"),
    [
        ("ppo", StockClipPPOLoss),
        ("a2c", StockA2CLoss),
        ("reinforce", StockReinforceLoss),
        ("dqn", StockDQNLoss),
    ],
)
def test_the_names_are_those_of_torchrl(name, stock):
    mine, theirs = asdict(MAKE[name]().default_keys()), asdict(stock.default_keys())
    assert set(theirs) <= set(mine)
    differ = {key for key in theirs if theirs[key] != mine[key]}
    assert differ <= {"priority"}


def test_the_names_of_advantages_are_those_of_torchrl():
    theirs = asdict(StockGAE.default_keys())
    mine = asdict(MAKE["gae"]().default_keys())
    assert mine.items() <= theirs.items()
    assert asdict(MAKE["return"]().default_keys()).items() <= {**theirs, "episode": "episode"}.items()


@pytest.mark.parametrize("name", MAKE)
def test_an_unknown_name_is_refused_and_nothing_changes(name):
    module = MAKE[name]()
    before = asdict(module.tensor_keys), list(module.in_keys)
    with pytest.raises(ValueError, match=f"{type(module).__name__} has no key named 'rewrd'; did you mean reward?"):
        module.set_keys(done="over", rewrd="score")
    with pytest.raises(TypeError, match="reward is 3; a key is a string, or a tuple of strings for a nested entry"):
        module.set_keys(done="over", reward=3)
    with pytest.raises(TypeError, match=r"reward is \(\); a key is"):
        module.set_keys(reward=())
    assert (asdict(module.tensor_keys), list(module.in_keys)) == before


@pytest.mark.parametrize("name", MAKE)
def test_none_is_the_default(name):
    module = MAKE[name]()
    before = asdict(module.tensor_keys), list(module.in_keys), list(module.out_keys)
    module.set_keys(reward=("a", "b"), done="c")
    assert module.tensor_keys.reward == ("a", "b")
    module.set_keys(reward=None, done=None)
    assert (asdict(module.tensor_keys), list(module.in_keys), list(module.out_keys)) == before


def test_two_losses_do_not_share_their_keys():
    one, other = MAKE["ppo"](), MAKE["ppo"]()
    one.set_keys(advantage="a")
    assert other.tensor_keys.advantage == "advantage"
    assert other.default_keys().advantage == "advantage"


def test_a_recording_follows_new_keys():
    loss = MAKE["a2c"]()
    parameters = list(loss.parameters())
    recorded, eager = (make_gradient(loss, parameters, execution) for execution in ("recorded", "eager"))
    batch = random_batch(32)
    batch["other"] = batch["advantage"].flip(0)
    before = [eager(batch)[0][0]]
    for key in ("advantage", "other", "advantage"):
        loss.set_keys(advantage=key)
        expected = eager(batch)
        for _ in range(14):
            gradient, terms = recorded(batch)
            assert all(map(torch.equal, gradient, expected[0]))
            assert torch.equal(terms["loss_policy"], expected[1]["loss_policy"])
        assert recorded._state.recordings
        before.append(gradient[0])
    assert torch.equal(before[0], before[1])
    assert not torch.equal(before[1], before[2])
