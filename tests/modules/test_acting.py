"""Networks run layer by layer: the same bits as a call, and a call wherever that may do something else."""

import copy

import pytest
import torch
from tensordict.nn import TensorDictSequential
from torch import nn
from torch.nn.utils import parametrizations

from rlpipe.modules import (
    MLP,
    CategoricalActor,
    DuelingHead,
    Encoder,
    EpsilonGreedy,
    Flatten,
    Linear,
    Network,
    OneHot,
    QActor,
    Shared,
)
from rlpipe.modules.acting import acting, straight
from rlpipe.modules.networks import Tanh
from rlpipe.pipelines.collectors.collector import SyncDataCollector
from rlpipe.pipelines.envs import EnvConfig, make_env

NETWORKS = {
    "tanh": lambda: nn.Sequential(Flatten((4,)), *MLP(4, 2, (64, 64), activation="tanh")),
    "relu": lambda: MLP(4, 2, (7,)),
    "silu": lambda: MLP(4, 2, (7,), activation="silu"),
    "norm": lambda: MLP(4, 2, (7, 5), layer_norm=True),
    "nested": lambda: nn.Sequential(Shared(nn.Linear(4, 5), Tanh()), nn.Sequential(nn.Sequential(), nn.Linear(5, 2))),
    "dueling": lambda: nn.Sequential(MLP(4, None, (6,)), DuelingHead(6, 2)),
    "no bias": lambda: nn.Sequential(nn.Linear(4, 5, bias=False), nn.ReLU(), nn.Dropout(0.0)),
    "scaled": lambda: nn.Sequential(Flatten((4,), scale=[1.0, 2.0, 3.0, 4.0]), nn.Linear(4, 2)),
    "offset": lambda: nn.Sequential(Flatten((4,), offset=[1e6, 0.0, 0.0, 0.0]), nn.Linear(4, 2)),
    "nothing": nn.Sequential,
    "activation first": lambda: nn.Sequential(Tanh(), nn.ReLU(), nn.Linear(4, 2)),
    "one layer": lambda: nn.Linear(4, 2),
    "parametrised": lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 5)), Tanh()),
}


@pytest.mark.parametrize("batch", [(1,), (8,), (64,), (3, 5), ()])
@pytest.mark.parametrize("name", NETWORKS)
@torch.inference_mode()
def test_the_bits_are_those_of_a_call(name, batch):
    torch.manual_seed(0)
    network, x = NETWORKS[name](), torch.randn(*batch, 4)
    kept = x.clone()
    assert torch.equal(straight(network)(x), network(x))
    assert torch.equal(x, kept)


@torch.inference_mode()
def test_observations_of_another_type_or_kind_are_read_as_by_a_call():
    network = nn.Sequential(Flatten((4,)), nn.Linear(4, 2))
    x = torch.randint(9, (3, 4))
    assert torch.equal(straight(network)(x), network(x))
    states = nn.Sequential(OneHot(5), nn.Linear(5, 2))
    assert torch.equal(straight(states)(x[:, 0] % 5), states(x[:, 0] % 5))


def several():
    torch.manual_seed(0)
    layers = {"a": Flatten((4,)), "b": nn.Sequential(nn.Linear(4, 3), Tanh()), "c": OneHot(5)}
    for layer, features in zip(layers.values(), (4, 3, 5), strict=True):
        layer.features = features
    return Network(Encoder(layers), *MLP(12, 2, (8,), activation="tanh"))


@pytest.mark.parametrize("wrap", [lambda each: each, lambda each: Network(Shared(*each)), nn.Sequential])
@torch.inference_mode()
def test_several_entries_are_read_as_by_a_call(wrap):
    network = several()
    wrapped = wrap(network) if wrap is not nn.Sequential else Network(*network[:1], nn.Sequential(*network[1:]))
    x, state = torch.randn(3, 4), torch.tensor([0, 4, 2])
    assert torch.equal(straight(wrapped)(x, x, state), network(x, x, state))


@torch.inference_mode()
def test_hooks_of_what_encodes_an_entry_are_called():
    network = several()
    x, state = torch.randn(3, 4), torch.tensor([0, 4, 2])
    for place in (network[0], network[0].layers[0]):
        handle = place.register_forward_hook(lambda module, inputs, output: output + 1)
        assert torch.equal(straight(network)(x, x, state), network(x, x, state))
        handle.remove()


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def _hooked(network):
    network[0].register_forward_hook(lambda module, inputs, output: output + 1)


def _hooked_before(network):
    network[2].register_forward_pre_hook(lambda module, inputs: (inputs[0] * 3,))


def _hooked_whole(network):
    network.register_forward_hook(lambda module, inputs, output: output * 5)


def _replaced(network):
    network[0].forward = lambda x: torch.ones(*x.shape[:-1], 6)


def _subclassed(network):
    network[2] = Doubled(6, 2)


def _doubled_linear_first(network):
    network[0] = Doubled(4, 6)


@pytest.mark.parametrize(
    "change", [_hooked, _hooked_before, _hooked_whole, _replaced, _subclassed, _doubled_linear_first]
)
@torch.inference_mode()
def test_what_a_call_does_besides_is_done(change):
    torch.manual_seed(0)
    network, x = MLP(4, 2, (6,), activation="tanh"), torch.randn(5, 4)
    before = network(x)
    change(network)
    assert torch.equal(straight(network)(x), network(x))
    assert not torch.equal(network(x), before)


@torch.inference_mode()
def test_hooks_of_all_modules_are_called():
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, inputs, output: seen.append(module))
    try:
        straight(MLP(4, 2, (6,)))(torch.randn(5, 4))
    finally:
        handle.remove()
    assert [type(module) for module in seen] == [nn.Linear, nn.ReLU, nn.Linear, MLP]


@torch.inference_mode()
def test_a_hook_that_keeps_what_a_layer_gave_is_not_overwritten():
    kept = []
    network = MLP(4, 2, (6,), activation="tanh")
    network[0].register_forward_hook(lambda module, inputs, output: kept.append((output, output.clone())))
    straight(network)(torch.randn(5, 4))
    ((output, copied),) = kept
    assert torch.equal(output, copied)


def test_modules_are_as_before_afterwards_also_when_one_is_there_twice_or_fails():
    actor = CategoricalActor(MLP(4, 2, (6,)), make_env(EnvConfig("CartPole-v1")).action_spec)
    before = set(vars(actor))

    def fail_within():
        with acting([actor, actor]):
            assert set(vars(actor)) == {*before, "running"}
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_within()
    assert set(vars(actor)) == before
    assert actor.running == {}


def test_a_rollout_follows_weights_and_hooks_that_changed_since_the_last():
    env = make_env(EnvConfig("CartPole-v1", 2), seed=0)
    policy = TensorDictSequential(
        QActor(MLP(4, 2, (6,), activation="tanh"), env.action_spec), EpsilonGreedy(env.action_spec, Linear(0.0, 0.0, 1))
    )
    collector = SyncDataCollector(env, policy, frames_per_batch=8, total_frames=-1)
    batches = iter(collector)

    def check():
        batch = next(batches)
        fresh = copy.deepcopy(policy)(batch.select("observation"))
        torch.testing.assert_close(batch["action_value"], fresh["action_value"])

    check()
    network = policy[0].network
    with torch.no_grad():
        network[0].weight.mul_(-3.0)
    check()
    network[0].weight = nn.Parameter(torch.randn(6, 4))
    check()
    network[2] = nn.Linear(6, 2)
    check()
    network[0].register_forward_hook(lambda module, inputs, output: output + 1)
    check()
    collector.shutdown()


@pytest.mark.parametrize("others", [torch.float32, torch.float64, torch.int64, torch.uint8])
def test_entries_of_any_type_are_joined_as_they_are_cast(others):
    joined = Network(Encoder({"place": Flatten((2,)), "rest": Flatten((3,))}), *MLP(5, 2, (4,)))
    entries = torch.randn(6, 2), (torch.rand(6, 3, dtype=torch.float64) * 2e7 + 0.3).to(others)
    with torch.inference_mode():
        assert torch.equal(straight(joined)(*entries), joined(*entries))
