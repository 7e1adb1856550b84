"""`in_keys` and `out_keys`: what a module reads and writes when it is told, and when it is not."""

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torchrl.data import Binary, Bounded, Categorical, Composite, MultiCategorical, Unbounded
from torchrl.envs.utils import ExplorationType, set_exploration_type

from rlpipe.modules import (
    MLP,
    ActionValueCritic,
    ActionValueTable,
    BernoulliActor,
    CategoricalActor,
    Critic,
    DeterministicActor,
    EpsilonGreedy,
    GaussianActor,
    GaussianNoise,
    JointActor,
    Linear,
    MultiCategoricalActor,
    Network,
    OrnsteinUhlenbeck,
    QActor,
    QuantileActor,
    encoder,
    stochastic_actor,
)

DISCRETE, SEVERAL, BITS = Categorical(3, (8,)), MultiCategorical([2, 3], (8, 2)), Binary(3, (8, 3))
BOX = Bounded(-torch.ones(8, 2), torch.ones(8, 2), (8, 2))
BOTH = Composite(move=BOX, tool=DISCRETE, shape=(8,))
CHANCE = Linear(0.5, 0.5, 1)
# how it is made, and what it reads and writes unless it is told
MODULES = {
    "q": (lambda **keys: QActor(MLP(4, 3), DISCRETE, **keys), 1, ["action_value", "action", "chosen_action_value"]),
    "quantiles": (
        lambda **keys: QuantileActor(MLP(4, 6), DISCRETE, 2, **keys),
        1,
        ["action_value", "action", "chosen_action_value", "quantiles"],
    ),
    "categorical": (lambda **keys: CategoricalActor(MLP(4, 3), DISCRETE, **keys), 1, ["action", "action_log_prob"]),
    "several": (lambda **keys: MultiCategoricalActor(MLP(4, 5), SEVERAL, **keys), 1, ["action", "action_log_prob"]),
    "bits": (lambda **keys: BernoulliActor(MLP(4, 3), BITS, **keys), 1, ["action", "action_log_prob"]),
    "gaussian": (lambda **keys: GaussianActor(MLP(4, 2), BOX, **keys), 1, ["action", "action_log_prob"]),
    "joint": (
        lambda **keys: JointActor(MLP(4, 5), BOTH, **keys),
        1,
        [("action", "move"), ("action", "tool"), "action_log_prob"],
    ),
    "any": (lambda **keys: stochastic_actor(MLP(4, 3), DISCRETE, **keys), 1, ["action", "action_log_prob"]),
    "deterministic": (lambda **keys: DeterministicActor(MLP(4, 2), BOX, **keys), 1, ["action"]),
    "critic": (lambda **keys: Critic(MLP(4, 1), **keys), 1, ["state_value"]),
    "action value": (lambda **keys: ActionValueCritic(MLP(6, 1), BOX, **keys), 1, ["state_action_value"]),
    "table": (
        lambda **keys: QActor(ActionValueTable(5, 3), DISCRETE, **keys),
        1,
        ["action_value", "action", "chosen_action_value"],
    ),
    "epsilon": (lambda **keys: EpsilonGreedy(DISCRETE, CHANCE, **keys), 1, ["action"]),
    "noise": (lambda **keys: GaussianNoise(BOX, 0.1, **keys), 1, ["action"]),
    "lasting noise": (lambda **keys: OrnsteinUhlenbeck(BOX, 0.1, **keys), 2, ["action"]),
}


def entries(module):
    """What a module reads, by key."""
    values = {"observation": torch.randn(8, 4), "action": BOX.rand(), "step_count": torch.ones(8, 1).long()}
    if isinstance(module, EpsilonGreedy):
        values["action"] = DISCRETE.rand()
    if isinstance(getattr(module, "network", None), ActionValueTable):
        values["observation"] = torch.arange(8) % 5
    return {key: values[key] for key in module.in_keys}


@pytest.mark.parametrize("name", MODULES)
def test_keys_may_be_others(name):
    make, takes, writes = MODULES[name]
    torch.manual_seed(0)
    own = make()
    assert own.out_keys == writes
    renamed_in = [("deep", f"in{index}") for index in range(takes)]
    renamed_out = [f"out{index}" for index in range(len(writes))]
    other = make(in_keys=renamed_in, out_keys=renamed_out)
    other.load_state_dict(own.state_dict())
    assert other.in_keys == [*renamed_in, *own.in_keys[takes:]]
    assert other.out_keys == renamed_out
    read, results = entries(own), []
    for module in (own, other):
        values = dict(zip(module.in_keys, read.values(), strict=True))
        torch.manual_seed(1)
        with set_exploration_type(ExplorationType.RANDOM):
            out = module(TensorDict(values, [8]))
        assert set(module.out_keys) <= set(out.keys(True, True))
        results.append([out[key] for key in module.out_keys])
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("many", [0, 1, 4])
def test_out_keys_of_another_number_are_refused(name, many):
    make, _, writes = MODULES[name]
    if many == len(writes):
        many += 1
    with pytest.raises(ValueError, match=r"out_keys of \w+ are \[.*\]; expected as many different keys as \["):
        make(out_keys=[f"out{index}" for index in range(many)])


def test_keys_that_are_none_are_refused():
    with pytest.raises(ValueError, match="out_keys of QActor are .*; expected as many different keys as"):
        QActor(MLP(4, 3), DISCRETE, out_keys=["a", "a", "b"])
    for keys in ("features", 3, [3]):
        with pytest.raises(ValueError, match=r"in_keys of Critic is .*; expected a list of keys, such as \['"):
            Critic(MLP(4, 1), in_keys=keys)
    with pytest.raises(ValueError, match=r"in_keys of Critic are \[\]; expected as many keys as \['observation'\]"):
        Critic(MLP(4, 1), in_keys=[])
    with pytest.raises(ValueError, match=r"in_keys of GaussianNoise are \['a', 'b'\]; expected as many keys as"):
        GaussianNoise(BOX, 0.1, in_keys=["a", "b"])
    with pytest.raises(ValueError, match=r"in_keys of ActionValueCritic are \['a', 'b'\]; expected as many keys"):
        ActionValueCritic(MLP(6, 1), BOX, in_keys=["a", "b"])
    with pytest.raises(TypeError, match="unexpected keyword argument 'in_key'"):
        Critic(MLP(4, 1), in_key=["features"])


def test_a_network_of_several_entries_gets_as_many():
    spec = Composite(eye=Unbounded((8, 2)), ear=Unbounded((8, 3)), shape=(8,))
    first = encoder(spec)
    critic = Critic(Network(first, MLP(5, 1)), in_keys=["left", "right"])
    assert critic.in_keys == ["left", "right"]
    assert critic(TensorDict({"left": torch.zeros(8, 2), "right": torch.zeros(8, 3)}, [8]))["state_value"].shape == (
        8,
        1,
    )
    with pytest.raises(ValueError, match=r"in_keys of Critic are \['left'\]; expected as many keys as \['e"):
        Critic(Network(first, MLP(5, 1)), in_keys=["left"])


def test_a_network_that_does_not_tell_may_take_several():
    class Sum(nn.Module):
        def forward(self, one, other):
            return one + other

    critic = Critic(Sum(), in_keys=["one", "other"])
    out = critic(TensorDict({"one": torch.ones(8, 1), "other": torch.ones(8, 1)}, [8]))
    assert (out["state_value"] == 2).all()


@pytest.mark.parametrize("given", [["features"], ["features", "action_mask"], ["action_mask", "features"]])
def test_the_mask_comes_last(given):
    for actor in (
        QActor(MLP(4, 3), DISCRETE, masked=True, in_keys=given),
        QuantileActor(MLP(4, 6), DISCRETE, 2, masked=True, in_keys=given),
        CategoricalActor(MLP(4, 3), DISCRETE, masked=True, in_keys=given),
        stochastic_actor(MLP(4, 5), SEVERAL, masked=True, in_keys=given),
    ):
        assert actor.in_keys == ["features", "action_mask"]
    assert EpsilonGreedy(DISCRETE, CHANCE, masked=True, in_keys=["greedy"]).in_keys == ["greedy", "action_mask"]


def test_a_critic_of_actions_reads_the_action_last():
    for given in (["features"], ["features", "action"]):
        assert ActionValueCritic(MLP(6, 1), BOX, in_keys=given).in_keys == ["features", "action"]
    first = encoder(Composite(eye=Unbounded((8, 2)), ear=Unbounded((8, 3)), shape=(8,)))
    critic = ActionValueCritic(MLP(7, 1), BOX, encoder=first, in_keys=["left", "right"])
    assert critic.in_keys == ["left", "right", "action"]


@pytest.mark.parametrize("kind", ["stochastic", "q"])
def test_a_stock_module_stands_before_an_actor(kind):
    first = TensorDictModule(MLP(4, None, (8,)), ["observation"], ["features"])
    head = nn.Linear(8, 3)
    make = CategoricalActor if kind == "stochastic" else QActor
    policy = TensorDictSequential(first, make(head, DISCRETE, in_keys=["features"]))
    whole = make(nn.Sequential(first.module, head), DISCRETE)
    assert policy.in_keys == ["observation"]
    observation = TensorDict({"observation": torch.randn(8, 4)}, [8])
    for exploration in (ExplorationType.DETERMINISTIC, ExplorationType.RANDOM):
        outs = []
        for each in (policy, whole):
            torch.manual_seed(0)
            with set_exploration_type(exploration):
                outs.append(each(observation.clone()))
        assert all(torch.equal(outs[0][key], outs[1][key]) for key in whole.out_keys)
