"""Recorded gradients against autograd's, bit for bit; when they are recorded, and what cannot be."""

import array
import copy
import functools
import itertools
import math
import os
import random
import sys
import warnings
from collections import deque
from contextvars import ContextVar
from types import ModuleType

import numpy as np
import pytest
import torch
from comparing import equal
from images import IMAGES
from small_losses import Cubic, batch_of
from tensordict import LazyStackedTensorDict, TensorDict
from torch import nn
from torchrl.data import Categorical
from torchrl.modules import QValueActor
from torchrl.objectives import DQNLoss as StockDQNLoss
from torchrl.objectives import LossModule

from rlpipe.losses import ReinforceLoss
from rlpipe.modules import MLP, CategoricalActor
from rlpipe.pipelines.algorithms import a2c, dqn, ppo, reinforce
from rlpipe.pipelines.config.groups import OptimizerConfig
from rlpipe.pipelines.updates import compiler
from rlpipe.pipelines.updates import recorder as recording
from rlpipe.pipelines.updates.recorder import make_gradient
from rlpipe.pipelines.updates.update import gradient_step

SMALL = {"num_envs": 4, "rollout_steps": 16, "minibatch_size": 32, "epochs": 3, "hidden": (16,)}
REPLAY = {**SMALL, "warmup_frames": 64, "buffer_size": 512, "updates": 4}
MAZE = {"env_id": "rlpipe/Maze-v0", "max_episode_steps": 8}
BOX = {"env_id": "Pendulum-v1", "entropy_coefficient": 0.01}
WHOLE = {"env_id": "Pendulum-v1", "max_episode_steps": 16}
CASES = [
    (ppo, SMALL),
    (ppo, {**SMALL, "value_clip": 0.2, "shared_trunk": True, "activation": "silu", "value_kind": "smooth_l1"}),
    (ppo, {**SMALL, **BOX, "state_dependent_std": True}),
    (ppo, {**SMALL, **MAZE, "entropy_coefficient": 0.1}),
    (ppo, {**SMALL, "recurrent": "gru", "recurrent_size": 8}),
    (a2c, {**SMALL, "recurrent": "lstm", "recurrent_size": 8}),
    (a2c, {**SMALL, **BOX, "optimizer": "adamw"}),
    (a2c, {**SMALL, "env_id": "FrozenLake-v1", "layer_norm": True, "max_grad_norm": None}),
    (dqn, REPLAY),
    (dqn, {**REPLAY, **MAZE, "dueling": True, "double": False, "layer_norm": False}),
    (dqn, {**REPLAY, "env_id": "FrozenLake-v1", "kind": "mse", "max_grad_value": 0.1, "target_every": 3, "tau": 1.0}),
    (dqn, {**REPLAY, "replay": False, "target_network": False, "double": False}),
    (dqn, {**REPLAY, "env_id": IMAGES, "updates": 2}),
    (ppo, {**SMALL, "env_id": IMAGES, "shared_trunk": True, "epochs": 1}),
    (reinforce, {**SMALL, **WHOLE}),
    (reinforce, {**SMALL, **WHOLE, "baseline": True, "entropy_coefficient": 0.1}),
    (reinforce, {**SMALL, **WHOLE, "normalize": "episode"}),
    # with a minibatch of one environment at the end
    (ppo, {**SMALL, "recurrent": "lstm", "recurrent_size": 8, "num_envs": 5}),
    (reinforce, {**SMALL, **WHOLE, "recurrent": "gru", "recurrent_size": 8, "baseline": True}),
]


@pytest.fixture
def recorded(monkeypatch):
    """The recordings that are made."""
    made, make_replay = [], recording.make_replay

    def note(*arguments):
        made.append(make_replay(*arguments))
        return made[-1]

    monkeypatch.setattr(recording, "make_replay", note)
    return made


def train(module, settings, batches=14):
    known = {name: value for name, value in settings.items() if name in module.Config.__dataclass_fields__}
    pipeline = module.build(module.Config(**known, total_frames=10_000))
    scalars = []
    for batch, _ in zip(pipeline.collector, range(batches), strict=False):
        scalars.append(pipeline.learn(batch))
    pipeline.close()
    return pipeline.state["loss"].state_dict(), scalars


def without_torchscript(monkeypatch):
    """As in a PyTorch that has given it up."""
    for name in ("CompilationUnit", "optimized_execution"):
        monkeypatch.delattr(torch.jit, name)


def compiling_nothing(monkeypatch):
    """What is to be compiled runs as it is, with the same numbers."""
    monkeypatch.setattr(compiler, "compile_graph", lambda graph, inputs: graph)


WAYS = {
    "TorchScript": ("recorded", lambda monkeypatch: None),
    "Python": ("recorded", without_torchscript),
    "compiled": ("compiled", compiling_nothing),
}


@pytest.mark.parametrize(("module", "settings"), CASES)
def test_the_same_numbers_to_the_bit(module, settings, recorded, monkeypatch):
    # operations on episodes depend on their lengths
    varies = settings.get("normalize") == "episode" or (module is reinforce and "recurrent" in settings)
    shapes = 0 if varies else settings["num_envs"] - 3
    found = [train(module, settings)]
    assert len(recorded) == shapes
    with monkeypatch.context() as patch:
        without_torchscript(patch)
        found.append(train(module, settings))
    assert len(recorded) == 2 * shapes
    monkeypatch.setattr(OptimizerConfig, "execution", "eager")
    eager_weights, eager_scalars = train(module, settings)
    assert len(recorded) == 2 * shapes
    for weights, scalars in found:
        assert equal(weights, eager_weights)
        assert all(equal(dict(one), dict(other)) for one, other in zip(scalars, eager_scalars, strict=True))


@pytest.fixture
def calls(monkeypatch):
    """The minibatches whose gradient autograd has computed."""
    made, differentiate = [], recording._differentiate

    def note(loss, parameters, minibatch):
        made.append(minibatch)
        return differentiate(loss, parameters, minibatch)

    monkeypatch.setattr(recording, "_differentiate", note)
    return made


def test_a_shape_is_recorded_when_it_has_come_often(recorded, calls):
    loss = Cubic()
    gradient_of = make_gradient(loss, list(loss.parameters()), "recorded")
    for seen in range(1, 19):
        # derivative 3 w^2 mean(x), w = 2
        gradient, terms = gradient_of(batch_of(seen, seen + 2.0))
        assert gradient[0].item() == pytest.approx(12 * (seen + 1))
        assert gradient[1] is None
        assert terms["mean"].item() == seen + 1
        assert not any(term.requires_grad for term in terms.values())
    # nine by autograd and one to be recorded; of the eight replays, the first, second, fourth and eighth are compared
    assert (len(recorded), len(calls)) == (1, 14)
    for _ in range(7):
        gradient_of(batch_of(1.0, 2.0))
    assert len(calls) == 14
    assert gradient_of(batch_of(1.0, 2.0, 6.0))[0][0].item() == pytest.approx(36)
    assert (len(recorded), len(calls)) == (1, 15)


def test_not_more_than_four_shapes_are_recorded(recorded):
    loss = Cubic()
    gradient_of = make_gradient(loss, list(loss.parameters()), "recorded")
    for size in range(1, 8):
        for _ in range(12):
            assert gradient_of(batch_of(*[1.0] * size))[0][0].item() == pytest.approx(12)
    assert len(recorded) == 4


def test_a_recording_follows_the_parameters_wherever_they_are_loaded_from():
    loss = Cubic()
    gradient_of = make_gradient(loss, list(loss.parameters()), "recorded")
    for _ in range(12):
        gradient_of(batch_of(1.0))
    loss.load_state_dict({**loss.state_dict(), "weight": torch.tensor(3.0)})
    assert gradient_of(batch_of(1.0))[0][0].item() == pytest.approx(27)


def hook(loss):
    def double(module, inputs, terms):
        return terms.set("loss_cubic", 2 * terms["loss_cubic"])

    loss.register_forward_hook(double)


@pytest.mark.parametrize(
    ("change", "derivative"),
    [
        (lambda loss: setattr(loss, "scale", 2.0), 24),
        (lambda loss: loss.part.eval(), 120),
        (hook, 24),
        (lambda loss: setattr(loss.part, "offset", torch.tensor(2.0)), 36),
        (lambda loss: loss.load_state_dict({**loss.state_dict(), "weight": torch.tensor(3.0)}), 27),
        (lambda loss: loss.load_state_dict({**loss.state_dict(), "weight": torch.tensor(3.0)}, assign=True), None),
        (lambda loss: loss.double(), 12),
    ],
)
def test_a_loss_that_has_changed_is_recorded_anew(change, derivative, recorded):
    loss = Cubic()
    parameters = list(loss.parameters())
    gradient_of = make_gradient(loss, parameters, "recorded")
    for _ in range(12):
        assert gradient_of(batch_of(1.0))[0][0].item() == pytest.approx(12)
    change(loss)
    for _ in range(12):
        gradient = gradient_of(batch_of(1.0))[0][0]
        # what was put in the parameter's place is none of those that the gradient is asked for
        assert gradient is None if derivative is None else gradient.item() == pytest.approx(derivative)


@pytest.mark.parametrize(
    "other",
    [
        lambda: batch_of(1.0, 2.0, 3.0, 4.0),
        lambda: batch_of(1.0, 2.0).to(torch.float64),
        lambda: batch_of(1.0, 0.0, 2.0, 0.0)[::2],
    ],
)
def test_minibatches_of_another_kind_are_not_replayed_with_the_same_operations(other, calls):
    gradient_of = make_gradient(loss := Cubic(), list(loss.parameters()), "recorded")
    for _ in range(12):
        gradient_of(batch_of(1.0, 2.0))
    before = len(calls)
    # the third replay of the kind that is recorded, which is not compared
    gradient_of(batch_of(1.0, 2.0))
    assert len(calls) == before
    gradient, _ = gradient_of(other())
    assert len(calls) == before + 1
    assert gradient[0].item() == pytest.approx(12 * other()["next", "x"].mean().item())


def test_lazily_stacked_minibatches_are_read_anew():
    gradient_of = make_gradient(loss := Cubic(), list(loss.parameters()), "recorded")
    for number in range(1, 15):
        batch = LazyStackedTensorDict(*batch_of(number, number + 2.0).unbind(0))
        assert gradient_of(batch)[0][0].item() == pytest.approx(12 * (number + 1))


class Two(LossModule):
    """`loss` is the mean of `w x y`."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))
        self.in_keys, self.out_keys = ["x", "y"], ["loss"]

    def forward(self, batch):
        return TensorDict({"loss": (self.weight * batch.get("x") * batch.get("y")).mean()})


def test_entries_that_are_one_tensor_for_a_while_are_not_taken_for_one():
    gradient_of = make_gradient(loss := Two(), list(loss.parameters()), "recorded")
    x, y = torch.tensor([2.0]), torch.tensor([5.0])
    for _ in range(12):
        assert gradient_of(TensorDict({"x": x, "y": x}, [1]))[0][0].item() == 4
    assert gradient_of(TensorDict({"x": x, "y": y}, [1]))[0][0].item() == 10


class Heads(LossModule):
    """Many matrix products of one shape, which TorchScript's optimiser would merge."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Linear(4, 64)
        self.heads = nn.ModuleList(nn.Linear(64, 3) for _ in range(8))
        self.in_keys, self.out_keys = ["x"], ["loss"]

    def forward(self, batch):
        features = self.trunk(batch.get("x")).relu()
        parts = torch.stack([head(features).square().mean() for head in self.heads]).chunk(1)
        return TensorDict({"loss": parts[0].sum()})


def test_operations_are_not_merged():
    loss = Heads()
    parameters = list(loss.parameters())
    gradient_of = make_gradient(loss, parameters, "recorded")
    for seed in range(14):
        batch = TensorDict({"x": torch.randn(32, 4, generator=torch.Generator().manual_seed(seed))}, [32])
        expected, _ = make_gradient(loss, parameters)(batch)
        assert all(torch.equal(*pair) for pair in zip(gradient_of(batch)[0], expected, strict=True))


def test_recording_counts_a_minibatch_once():
    loss = Heads()
    loss.trunk = nn.Sequential(nn.Linear(4, 64), nn.BatchNorm1d(64))
    gradient_of = make_gradient(loss, list(loss.parameters()), "recorded")
    for _ in range(12):
        gradient_of(TensorDict({"x": torch.randn(32, 4)}, [32]))
    assert loss.trunk[1].num_batches_tracked.item() == 12


def test_a_long_loss_is_left_to_autograd(recorded, calls, monkeypatch):
    monkeypatch.setattr(recording, "_MOST_OPERATIONS", 3)
    gradient_of = make_gradient(loss := Cubic(), list(loss.parameters()), "recorded")
    for _ in range(14):
        assert gradient_of(batch_of(1.0))[0][0].item() == pytest.approx(12)
    assert (len(recorded), len(calls)) == (0, 14)


class Picking(Two):
    """Takes entries by whole numbers, which change nothing about shapes."""

    def __init__(self):
        super().__init__()
        self.register_buffer("order", torch.tensor([1, 1, 0]))

    def forward(self, batch):
        return TensorDict({"loss": (self.weight * batch.get("x")[self.order]).sum()})


def test_indices_may_be_recorded(recorded):
    gradient_of = make_gradient(loss := Picking(), list(loss.parameters()), "recorded")
    for number in range(12):
        batch = TensorDict({"x": torch.tensor([float(number), 1.0]), "y": torch.ones(2)}, [2])
        assert gradient_of(batch)[0][0].item() == 2.0 + number
    assert len(recorded) == 1


class Undeclared(Two):
    """Reads a tensor that nothing holds."""

    def forward(self, batch):
        outside = torch.from_dlpack(np.ones(1, np.float32))
        return TensorDict({"loss": (self.weight * batch.get("x") * outside).mean()})


class Random(Two):
    """Draws from a generator."""

    def forward(self, batch):
        noise = torch.rand(1, generator=torch.Generator())
        return TensorDict({"loss": (self.weight * batch.get("x") * noise).mean()})


class Reads(Two):
    """Multiplies by what a function makes of the minibatch, of the loss itself, or of nothing."""

    def __init__(self, read, **held):
        super().__init__()
        self.read = read
        for name, value in held.items():
            setattr(self, name, value)

    def forward(self, batch):
        return TensorDict({"loss": (self.weight * batch.get("x") * self.read(self, batch)).mean()})


READS = {
    "torch.Tensor.item": lambda loss, batch: batch["y"].max().item(),
    "torch.Tensor.tolist": lambda loss, batch: max(batch["y"].tolist()),
    "torch.Tensor.numpy": lambda loss, batch: float(batch["y"].numpy().max()),
    "torch.Tensor.__array__": lambda loss, batch: float(np.asarray(batch["y"]).max()),
    "torch.Tensor.__dlpack__": lambda loss, batch: float(np.from_dlpack(batch["y"]).max()),
    "torch.Tensor.__bool__": lambda loss, batch: 2.0 if batch["y"].max() > 3 else 1.0,
    "torch.Tensor.__int__": lambda loss, batch: int(batch["y"].max()),
    "torch.Tensor.__float__": lambda loss, batch: float((batch["x"] * 2).max()),
    "torch.Tensor.__format__": lambda loss, batch: float(f"{batch['y'].max():.3f}"),
    "torch.Tensor.__repr__": lambda loss, batch: len(repr(batch["y"])),
    "torch.Tensor.data_ptr": lambda loss, batch: batch["y"].data_ptr() % 2,
    "torch.Tensor.untyped_storage": lambda loss, batch: batch["y"].untyped_storage()[0],
    "torch.tensor": lambda loss, batch: torch.tensor([batch["y"].max(), 1.0]).max(),
    "torch.as_tensor": lambda loss, batch: torch.as_tensor([batch["y"].max(), 1.0]).max(),
    "aten._unique2": lambda loss, batch: batch["y"].unique().sum(),
    "aten.index": lambda loss, batch: batch["y"][batch["y"] > 2].sum(),
    "aten.nonzero": lambda loss, batch: (batch["y"] > 2).nonzero().sum(),
}


def numbered(number):
    return TensorDict({"x": torch.ones(4) * number, "y": torch.arange(4.0) + number}, [4])


@pytest.mark.parametrize("name", READS)
def test_python_that_reads_tensors_is_refused(name):
    gradient_of = make_gradient(loss := Reads(READS[name]), list(loss.parameters()), "recorded")
    for number in range(9):
        gradient_of(numbered(number))
    with pytest.raises(ValueError, match=f"the loss uses {name}.*, which depends on data; leave its execution eager"):
        gradient_of(numbered(9))


@pytest.mark.parametrize(
    ("kind", "message"),
    [(Undeclared, r"reads a tensor of shape \[1\] that is neither"), (Random, "uses a Generator, which cannot")],
)
def test_what_a_recording_cannot_follow_is_refused(kind, message):
    gradient_of = make_gradient(loss := kind(), list(loss.parameters()), "recorded")
    batch = TensorDict({"x": torch.ones(1), "y": torch.ones(1)}, [1])
    for _ in range(9):
        gradient_of(batch)
    with pytest.raises(ValueError, match=message):
        gradient_of(batch)


def count(loss, batch):
    loss.calls += 1
    return 1 / loss.calls


def append(loss, batch):
    loss.calls.append(1.0)
    return 1 / len(loss.calls)


def write(loss, batch):
    batch.set("z", batch["y"] * 2)
    batch.set("y", batch["y"] + 1)
    batch.set(("next", "z"), batch["x"] * 3)
    return 1.0


# whether it is recorded, and why not
EAGER = {
    "counter": (lambda: Reads(count, calls=0), None),
    "list": (lambda: Reads(append, calls=[]), None),
    "python": (lambda: Reads(lambda loss, batch: random.random()), "Python's or NumPy's generator"),
    "numpy": (lambda: Reads(lambda loss, batch: np.random.rand()), "Python's or NumPy's generator"),  # noqa: NPY002
    "generator": (
        lambda: Reads(lambda loss, batch: loss.generator.random(), generator=np.random.default_rng(0)),
        "Reads.generator is a Generator, whose content cannot be watched",
    ),
    "iterator": (lambda: Reads(lambda loss, batch: next(loss.numbers), numbers=itertools.count(1)), "is a count"),
    "array": (lambda: Reads(lambda loss, batch: loss.array[0], array=np.ones(2_000)), "16000 bytes, too many"),
    "globals": (lambda: Reads(lambda loss, batch: globals()["np"].pi), "may read anything"),
    "taken out": (lambda: Reads(lambda loss, batch: batch.pop("y")), "it takes entries out of the minibatch"),
    "written": (lambda: Reads(write), ""),
    "in place": (lambda: Reads(lambda loss, batch: batch["y"].mul_(2)), ""),
    "part in place": (lambda: Reads(lambda loss, batch: batch["y"][:1].mul_(2)), ""),
    "constant in place": (lambda: Reads(lambda loss, batch: torch.tensor([0.0]).add_(batch["y"].sum())), ""),
    "tensor held": (lambda: Reads(lambda loss, batch: loss.held.add_(1), held=torch.zeros(1)), ""),
    "lstm": (lambda: Reads(lambda loss, batch: loss.lstm(batch["x"][:, None])[0].mean(), lstm=nn.LSTM(1, 2)), ""),
    "dropout": (lambda: Reads(lambda loss, batch: nn.functional.dropout(batch["y"])), ""),
    "keys": (lambda: Reads(lambda loss, batch: len(list(batch.keys()))), ""),
}


def compare(make, batches, change=lambda loss, number: None, execution="recorded"):
    """Both gradients of each minibatch, to the bit, and what becomes of the minibatch."""
    found = []
    for each in ("eager", execution):
        for generator in (torch.manual_seed, random.seed, np.random.seed):
            generator(0)
        loss = make()
        gradient_of = make_gradient(loss, list(loss.parameters()), each)
        bits = []
        for number, batch in enumerate(batches()):
            change(loss, number)
            gradient, terms = gradient_of(batch)
            tensors = [*gradient, *terms.values(), *(batch[key] for key in sorted(batch.keys(True, True), key=str))]
            bits.append([None if part is None else (part.dtype, part.numpy().tobytes()) for part in tensors])
        found.append(bits)
    assert found[0] == found[1]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", EAGER)
def test_what_happens_in_a_loss_happens_each_time(name, way, recorded, caplog, monkeypatch):
    make, reason = EAGER[name]
    execution, prepare = WAYS[way]
    prepare(monkeypatch)
    compare(make, lambda: [numbered(number) for number in range(30)], execution=execution)
    assert len(recorded) == (reason == "" and execution == "recorded")
    if reason is None and execution == "compiled":
        # it comes at once, and not only when a setting has come often
        assert "it changes its own attributes each time" in caplog.text
        return
    assert (reason or "") in caplog.text
    assert len(caplog.records) == bool(reason)


def test_a_recording_that_goes_stale_is_found_out_and_left_to_autograd(monkeypatch, recorded, caplog):
    monkeypatch.setenv("FACTOR", "1.0")
    loss = Reads(lambda loss, batch: float(os.environ["FACTOR"]))
    gradient_of = make_gradient(loss, [loss.weight], "recorded")
    for number in range(14):
        assert gradient_of(numbered(number))[0][0].item() == number
    monkeypatch.setenv("FACTOR", "2.0")
    # four replays are behind it, and the eighth is compared
    for number in range(3):
        gradient_of(numbered(number))
    for number in range(1, 40):
        assert gradient_of(numbered(number))[0][0].item() == 2 * number
    assert len(recorded) == 1
    assert [each.getMessage() for each in caplog.records] == [
        "the gradient of Reads is computed by autograd: a recording of it went stale; it depends on what cannot be "
        "watched, such as a file, the clock, or the attributes of an imported module"
    ]


def test_numbers_that_change_each_time_stay_with_autograd_and_are_not_kept(recorded):
    loss = Two()
    gradient_of = make_gradient(loss, [loss.weight], "recorded")
    for number in range(300):
        loss.scale = 0.5**number
        gradient_of(numbered(number))
    assert not recorded
    assert len(gradient_of._states) <= recording._MOST_STATES


def test_a_loss_that_is_another_each_time_is_not_looked_at_for_ever(recorded, caplog):
    def change(loss, number):
        loss.part = nn.Identity()

    compare(Two, lambda: [numbered(number) for number in range(100)], change)
    assert not recorded
    assert "what it consists of changes all the time" in caplog.text


def test_recordings_that_are_not_used_much_are_not_made_again_and_again(recorded):
    def change(loss, number):
        if number % 12 == 0:
            loss.part = nn.Identity()

    compare(Two, lambda: [numbered(number) for number in range(240)], change)
    assert 3 <= len(recorded) <= 6


@pytest.mark.parametrize("number", [1, True, -0.0, np.float32(1.0), None])
def test_numbers_that_are_equal_are_not_taken_for_one(number, recorded):
    """An integer keeps the type of what it is multiplied by; zeros have signs."""

    def read(loss, batch):
        return 3.0 if loss.scale is None else 1.0 / (batch["y"].long() * loss.scale + loss.scale)

    before = 0.0 if number == 0 else 1.0

    def change(loss, at):
        loss.scale = before if at < 14 else number

    compare(lambda: Reads(read, scale=before), lambda: [numbered(at) for at in range(30)], change)
    assert len(recorded) == 2


def test_a_loss_may_have_zeros_of_both_signs(recorded, caplog):
    """As an entropy bonus without weight has; TorchScript takes the two for one."""

    def read(loss, batch):
        sizes = batch["y"].abs()
        return torch.ones(()).copysign(sizes * 0.0) + 2 * torch.ones(()).copysign(sizes * -0.0)

    compare(lambda: Reads(read), lambda: [numbered(at) for at in range(14)])
    assert len(recorded) == 1
    assert not caplog.records


def odd(loss, batch):
    """Literals of all kinds, results of which some are left, and a list with a `None` in it."""
    x, y = batch["x"].double(), batch["y"].clamp(-math.inf, math.inf)
    first, _ = torch.stack([x, y.double()]).split(1)
    picked = y.reshape(2, 2)[:, torch.tensor([1, 0])].to(torch.float32, memory_format=torch.contiguous_format)
    filled = torch.full((4,), -math.inf, device="cpu", dtype=torch.float32).exp() + torch.rand(4) * -0.0
    return first.sum() + picked.sum() + (1 / (filled + y.copysign(torch.tensor(-0.0)))).abs().clamp(max=9)


@pytest.mark.parametrize("way", WAYS)
def test_literals_are_written_exactly(way, caplog, monkeypatch):
    execution, prepare = WAYS[way]
    prepare(monkeypatch)
    compare(lambda: Reads(odd), lambda: [numbered(at) for at in range(14)], execution=execution)
    assert not caplog.records


def test_nested_entries_and_those_beyond_in_keys_are_read():
    loss = Reads(lambda loss, batch: batch["deep", "x"] if ("deep", "x") in batch.keys(True) else batch["y"])
    loss.in_keys = ["deep"]

    def batches():
        for number in range(40):
            batch = numbered(number)
            if number % 20 < 13:
                batch["deep"] = TensorDict({"x": batch["y"] * 2}, [4])
            yield batch

    compare(lambda: loss, batches)


def test_stock_losses_read_beyond_their_in_keys():
    def make():
        network = QValueActor(MLP(4, 2, (8,)), spec=Categorical(2), action_space="categorical")
        # without a target network, of which TorchRL would warn
        return StockDQNLoss(network, delay_value=False)

    draw = torch.Generator().manual_seed(0)
    flag = torch.zeros(32, 1, dtype=torch.bool)
    batch = TensorDict(
        {
            "observation": torch.randn(32, 4, generator=draw),
            "action": torch.randint(2, (32,), generator=draw),
            "priority_weight": torch.rand(32, generator=draw),
            "next": {
                "observation": torch.randn(32, 4, generator=draw),
                "reward": torch.randn(32, 1, generator=draw),
                "terminated": flag,
                "done": flag,
            },
        },
        [32],
    )

    compare(make, lambda: [batch.clone() for _ in range(14)])


def test_anomalies_are_looked_for_by_autograd(recorded):
    eager, scalars = train(dqn, REPLAY)
    assert len(recorded) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.autograd.detect_anomaly(check_nan=False):
            weights, watched = train(dqn, REPLAY)
    assert len(recorded) == 1
    assert equal(weights, eager)
    assert all(equal(dict(one), dict(other)) for one, other in zip(watched, scalars, strict=True))


def test_a_loss_whose_operations_depend_on_data_is_refused():
    loss = ReinforceLoss(CategoricalActor(MLP(4, 2, (8,)), Categorical(2, (6,))), normalize="episode")
    update = gradient_step(loss, torch.optim.SGD(loss.parameters(), lr=0.1), execution="recorded")
    batch = TensorDict(
        {
            "observation": torch.randn(6, 4),
            "action": torch.zeros(6, dtype=torch.int64),
            "advantage": torch.randn(6, 1),
            "episode": torch.tensor([[0], [0], [0], [1], [1], [1]]),
        },
        (6,),
    )
    for _ in range(9):
        update(batch)
    with pytest.raises(ValueError, match="unique.* leave its execution eager"):
        update(batch)


def test_a_missing_key_is_named_as_ever():
    loss = ReinforceLoss(CategoricalActor(MLP(4, 2, (8,)), Categorical(2, (6,))))
    update = gradient_step(loss, torch.optim.SGD(loss.parameters(), lr=0.1), execution="recorded")
    with pytest.raises(KeyError, match="action"):
        update(TensorDict({"observation": torch.randn(6, 4), "advantage": torch.randn(6, 1)}, (6,)))


def test_an_unknown_execution_is_refused():
    with pytest.raises(ValueError, match="execution is 'fast'; allowed are 'eager', 'recorded', 'compiled'"):
        make_gradient(Cubic(), [], "fast")


class Scaled(nn.Module):
    """A network with a number of its own, and what a loss may be made of it."""

    in_keys = ["x"]

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 1)
        self.inner.scale = 1.0
        self.returns = "scalars"

    def forward(self, batch):
        error = (self.inner.scale * self.inner(batch["x"])).square()
        return {"scalars": TensorDict(loss_x=error.mean()), "rows": TensorDict(loss_x=error), "tensor": error}[
            self.returns
        ]


def test_a_number_of_an_inner_module_may_change():
    ends = []
    for execution in ("eager", "recorded"):
        torch.manual_seed(0)
        loss = Scaled()
        update = gradient_step(loss, torch.optim.SGD(loss.parameters(), lr=0.1), execution=execution)
        for number in range(40):
            loss.inner.scale = 1.0 if number < 20 else 2.0
            update(TensorDict(x=torch.ones(5, 3), batch_size=[5]))
        ends.append(loss.inner.weight.detach())
    assert torch.equal(*ends)


@pytest.mark.parametrize(
    ("returns", "message"),
    [("rows", r"'loss_x' of shape \[5, 1\], expected a scalar"), ("tensor", "returns a Tensor, expected a TensorDict")],
)
def test_what_is_no_loss(returns, message):
    loss = Scaled()
    loss.returns = returns
    with pytest.raises((TypeError, ValueError), match=message):
        gradient_step(loss, torch.optim.SGD(loss.parameters()))(TensorDict(x=torch.ones(5, 3), batch_size=[5]))


# what a loss may read through something of C, or in a place that is easily missed; a setter makes it another
HOLDERS = {
    "bound method of a dict": (
        {"k": 1.0},
        lambda held: held.get,
        lambda held: held.update(k=3.0),
        lambda got: got("k"),
    ),
    "partial": ([1.0], lambda held: functools.partial(max, held), lambda held: held.append(3.0), lambda got: got()),
    "array": (array.array("d", [1.0]), lambda held: held, lambda held: held.insert(0, 3.0), lambda got: got[0]),
    "deque": (deque([1.0]), lambda held: held, lambda held: held.appendleft(3.0), lambda got: got[0]),
    "context": (ContextVar("held", default=1.0), lambda held: held, lambda held: held.set(3.0), lambda got: got.get()),
}
GOT = None
CACHED = {"k": 1.0}


@functools.cache
def cached():
    return CACHED["k"]


def cache_anew(number):
    CACHED["k"] = number
    cached.cache_clear()


HOLDERS["cache"] = (None, lambda held: cache_anew(1.0) or cached, lambda held: cache_anew(3.0), lambda got: got())


@pytest.mark.parametrize("name", HOLDERS)
def test_global_variables_of_c_are_followed_or_left_to_autograd(name, monkeypatch):
    held, get, change, read = HOLDERS[name]
    held = copy.deepcopy(held) if name != "context" else held
    monkeypatch.setitem(globals(), "GOT", get(held))
    loss = Reads(lambda loss, batch: read(GOT))
    gradient_of = make_gradient(loss, [loss.weight], "recorded")
    # the first, second, fourth and eighth replay are compared with autograd, the twelfth is not
    for number in range(21):
        assert gradient_of(numbered(number))[0][0].item() == number
    change(held)
    for number in range(21, 40):
        assert gradient_of(numbered(number))[0][0].item() == 3 * number


class Slotted:
    __slots__ = ("k",)


class Number(float):
    """A number with attributes."""


class Kinds(type):
    k = 1.0


class OfKind(metaclass=Kinds):
    pass


PLACES = {
    "slot that was not set": (Slotted, lambda held: setattr(held, "k", 3.0)),
    "attribute of a number": (lambda: Number(2.0), lambda held: setattr(held, "k", 3.0)),
    "metaclass": (lambda: OfKind, lambda held: setattr(Kinds, "k", 3.0)),
}


@pytest.mark.parametrize("name", PLACES)
def test_attributes_in_odd_places_are_followed(name, monkeypatch, recorded):
    make, change = PLACES[name]
    monkeypatch.setattr(Kinds, "k", 1.0)
    held = make()
    if name == "attribute of a number":
        held.k = 1.0
    loss = Reads(lambda loss, batch: getattr(loss.held, "k", 1.0), held=held)
    gradient_of = make_gradient(loss, [loss.weight], "recorded")
    for number in range(21):
        assert gradient_of(numbered(number))[0][0].item() == number
    change(held)
    for number in range(21, 40):
        assert gradient_of(numbered(number))[0][0].item() == 3 * number
    assert len(recorded) == 2


def test_modules_imported_in_a_loss_and_those_inside_them_are_followed(monkeypatch, recorded):
    package, inner = ModuleType("own_package"), ModuleType("own_package.inner")
    package.inner, inner.k = inner, 1.0
    monkeypatch.setitem(sys.modules, "own_package", package)
    monkeypatch.setitem(sys.modules, "own_package.inner", inner)

    def read(loss, batch):
        import own_package.inner

        return own_package.inner.k

    loss = Reads(read)
    gradient_of = make_gradient(loss, [loss.weight], "recorded")
    for number in range(21):
        gradient_of(numbered(number))
    inner.k = 3.0
    for number in range(21, 40):
        assert gradient_of(numbered(number))[0][0].item() == 3 * number
    assert len(recorded) == 2


@pytest.mark.parametrize("setting", ["names", "locked"])
def test_names_and_locks_of_minibatches_are_kinds(setting, recorded):
    def batches():
        for number in range(50):
            batch = numbered(number)
            if number > 20 and setting == "names":
                batch.names = ["time"]
            yield batch.lock_() if number > 20 and setting == "locked" else batch

    compare(lambda: Reads(lambda loss, batch: 3.0 if batch.is_locked or batch._has_names() else 1.0), batches)
    assert len(recorded) == 2


def test_entries_that_begin_to_share_their_memory_are_left_to_autograd(recorded):
    def batches():
        for number in range(40):
            batch = numbered(number)
            yield batch.set("other", batch["y"].view_as(batch["y"]) if number > 20 else batch["y"].clone())

    compare(lambda: Reads(lambda loss, batch: batch["y"].mul_(2) * batch["other"]), batches)
    assert len(recorded) == 1


def flag(loss, batch):
    batch.set_non_tensor("flag", "seen")
    return 1.0


def test_what_is_no_tensor_and_written_into_the_minibatch_is_written_each_time(recorded, caplog):
    loss = Reads(flag)
    gradient_of = make_gradient(loss, [loss.weight], "recorded")
    for number in range(20):
        batch = numbered(number)
        gradient_of(batch)
        assert batch["flag"] == "seen"
    assert not recorded
    assert "entries that are not tensors" in caplog.text
