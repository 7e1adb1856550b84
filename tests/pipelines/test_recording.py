"""Recorded gradients against autograd's, bit for bit; when they are recorded, and what cannot be."""

import numpy as np
import pytest
import torch
from images import IMAGES
from tensordict import LazyStackedTensorDict, TensorDict
from torch import nn
from torchrl.data import Categorical
from torchrl.objectives import LossModule

from rlpipe.losses import ReinforceLoss
from rlpipe.modules import MLP, CategoricalActor
from rlpipe.pipelines import a2c, dqn, ppo, recording, reinforce
from rlpipe.pipelines.config import OptimizerConfig
from rlpipe.pipelines.pipeline import gradient_step
from rlpipe.pipelines.recording import make_gradient

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
]


@pytest.fixture
def recorded(monkeypatch):
    """The recordings that are made."""
    made, script = [], recording.script

    def note(*arguments):
        made.append(script(*arguments))
        return made[-1]

    monkeypatch.setattr(recording, "script", note)
    return made


def train(module, settings, batches=14):
    known = {name: value for name, value in settings.items() if name in module.Config.__dataclass_fields__}
    pipeline = module.build(module.Config(**known, total_frames=10_000))
    scalars = []
    for batch, _ in zip(pipeline.collector, range(batches), strict=False):
        scalars.append(pipeline.learn(batch))
    pipeline.close()
    return pipeline.state["loss"].state_dict(), scalars


def equal(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(torch.as_tensor(one[key]), torch.as_tensor(other[key])) for key in one)


@pytest.mark.parametrize(("module", "settings"), CASES)
def test_the_same_numbers_to_the_bit(module, settings, recorded, monkeypatch):
    weights, scalars = train(module, settings)
    assert len(recorded) == (settings.get("normalize") != "episode")
    monkeypatch.setattr(OptimizerConfig, "execution", "eager")
    eager_weights, eager_scalars = train(module, settings)
    assert len(recorded) == (settings.get("normalize") != "episode")
    assert equal(weights, eager_weights)
    assert all(equal(dict(one), dict(other)) for one, other in zip(scalars, eager_scalars, strict=True))


class Part(nn.Module):
    """Adds `offset`, and in evaluation nine more."""

    def __init__(self):
        super().__init__()
        self.register_buffer("offset", torch.tensor(0.0))

    def forward(self, x):
        return x + (self.offset if self.training else 9.0 + self.offset)


class Cubic(LossModule):
    """`loss_cubic`, the mean of `w^3 (x + offset)`; a parameter that takes no part; and a number that may change."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.weight, self.idle = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.zeros(3))
        self.scale = scale
        self.part = Part()
        self.in_keys, self.out_keys = [("next", "x")], ["loss_cubic", "mean"]

    def forward(self, batch):
        x = self.part(batch.get(("next", "x")))
        return TensorDict({"loss_cubic": self.scale * (self.weight**3 * x).mean(), "mean": x.mean()})


def batch_of(*numbers):
    x = torch.tensor(numbers, dtype=torch.float32)
    return TensorDict({"next": TensorDict({"x": x}, x.shape), "more": x}, x.shape)


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


def test_compiled_updates_are_left_to_pytorchs_compiler(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda operations: compiled.append(operations) or operations)
    train(ppo, {**SMALL, "compile": True}, batches=3)
    assert len(compiled) == 1
    train(ppo, SMALL, batches=3)
    assert len(compiled) == 1


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
