"""Recorded gradients against autograd's, bit for bit; when they are recorded, and what cannot be."""

import pytest
import torch
from tensordict import TensorDict
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
    (reinforce, {**SMALL, **WHOLE}),
    (reinforce, {**SMALL, **WHOLE, "baseline": True, "entropy_coefficient": 0.1}),
    (reinforce, {**SMALL, **WHOLE, "normalize": "episode"}),
]


@pytest.fixture
def recorded(monkeypatch):
    """The recordings that are made."""
    made, script = [], recording._script

    def note(*arguments):
        made.append(script(*arguments))
        return made[-1]

    monkeypatch.setattr(recording, "_script", note)
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


class Cubic(LossModule):
    """`loss_cubic`, the mean of `w^3 x`; a parameter that takes no part; and a number that may be changed."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.weight, self.idle = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.zeros(3))
        self.scale, self.calls = scale, 0
        self.in_keys, self.out_keys = [("next", "x")], ["loss_cubic", "mean"]

    def forward(self, batch):
        self.calls += 1
        x = batch.get(("next", "x"))
        return TensorDict({"loss_cubic": self.scale * (self.weight**3 * x).mean(), "mean": x.mean()})


def batch_of(*numbers):
    x = torch.tensor(numbers, dtype=torch.float32)
    return TensorDict({"next": TensorDict({"x": x}, x.shape), "more": x}, x.shape)


def test_a_shape_is_recorded_when_it_has_come_often(recorded):
    loss = Cubic()
    gradient_of = make_gradient(loss, list(loss.parameters()), "recorded")
    for seen in range(1, 15):
        # derivative 3 w^2 mean(x), w = 2
        gradient, terms = gradient_of(batch_of(seen, seen + 2.0))
        assert gradient[0].item() == pytest.approx(12 * (seen + 1))
        assert gradient[1] is None
        assert terms["mean"].item() == seen + 1
        assert not any(term.requires_grad for term in terms.values())
    # ten by autograd and one to record it; since then the loss itself is not called
    assert (len(recorded), loss.calls) == (1, 11)
    assert gradient_of(batch_of(1.0, 2.0, 6.0))[0][0].item() == pytest.approx(36)
    assert (len(recorded), loss.calls) == (1, 12)


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
    loss.load_state_dict({"weight": torch.tensor(3.0), "idle": torch.zeros(3)})
    assert gradient_of(batch_of(1.0))[0][0].item() == pytest.approx(27)


def test_training_and_evaluation_mode_are_recorded_apart(recorded):
    loss = Cubic()
    gradient_of = make_gradient(loss, list(loss.parameters()), "recorded")
    for mode in (True, False):
        loss.train(mode)
        for _ in range(12):
            gradient_of(batch_of(1.0))
    assert len(recorded) == 2


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
