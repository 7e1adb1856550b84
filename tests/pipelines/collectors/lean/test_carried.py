"""What recurrent policies carry from step to step: as in TorchRL's own collector, blank where an episode begins."""

import pytest
import torch
from tensor_envs import Walk
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torchrl.collectors import Collector
from torchrl.envs import GymEnv, RewardSum, SerialEnv
from torchrl.modules import GRUModule, LSTMModule

from rlpipe.modules import MLP, CategoricalActor, Memory, stochastic_actor
from rlpipe.modules.recurrent import state_specs
from rlpipe.pipelines.collectors.collector import SyncDataCollector
from rlpipe.pipelines.collectors.lean.carried import Carried
from rlpipe.pipelines.collectors.worker import WorkerCollector
from rlpipe.pipelines.envs import EnvConfig, ShapeReward, make_env
from rlpipe.pipelines.envs.normalization.running import RunningObservationNorm
from rlpipe.pipelines.envs.reward_shaping import balance

STEPS = 13
STATES = {
    "gru": ["recurrent_state"],
    "lstm": ["recurrent_state_h", "recurrent_state_c"],
    "GRUModule": ["state"],
    "LSTMModule": ["state", "cell"],
}
MEMORIES = list(STATES)


def make_policy(name, env):
    torch.manual_seed(0)
    spec, size = env.observation_spec["observation"], 5
    features = spec.shape[-1]
    if name in ("gru", "lstm"):
        memory = Memory(MLP(features, None, (6,)), 6, size, name)
    else:
        states = STATES[name]
        written = ["memory", *(("next", each) for each in states)]
        kind = {"GRUModule": GRUModule, "LSTMModule": LSTMModule}[name]
        memory = kind(features, size, in_keys=["observation", *states], out_keys=written)
    actions = env.full_action_spec
    outputs = 2 if env.action_spec.dtype is torch.int64 else 1
    generator = torch.Generator().manual_seed(0)
    head = nn.Linear(size, outputs)
    return TensorDictSequential(
        memory, stochastic_actor(head, actions, generator, False, len(env.batch_size), in_keys=["memory"])
    )


def collect(kind, env, policy, batches=3, **options):
    frames = STEPS * env.batch_size.numel()
    if kind is Collector:
        options["auto_register_policy_transforms"] = True
    collector = kind(env, policy, frames_per_batch=frames, total_frames=batches * frames, **options)
    assert kind is Collector or collector.is_lean()
    return list(collector)


def make(env_id="CartPole-v1", num_envs=3, transforms=()):
    return make_env(EnvConfig(env_id, num_envs, max_episode_steps=8), seed=4, transforms=list(transforms))


ENVIRONMENTS = {
    "cartpole": make,
    "one": lambda: make(num_envs=1),
    "positions": lambda: make("rlpipe/CartPolePositions-v0"),
    "pendulum": lambda: make("Pendulum-v1"),
    "tensors": lambda: make("rlpipe/TorchCartPole-v0"),
    "walk": lambda: make(Walk),
    "shaped": lambda: make(transforms=[ShapeReward(balance)]),
    "normalised": lambda: make(transforms=[RunningObservationNorm(["observation"])]),
}


@pytest.mark.parametrize("name", MEMORIES)
@pytest.mark.parametrize("kind", ENVIRONMENTS)
def test_a_batch_is_the_stock_collectors_to_the_bit(name, kind, identical):
    batches = []
    for collector in (Collector, SyncDataCollector):
        env = ENVIRONMENTS[kind]()
        batches.append(collect(collector, env, make_policy(name, env)))
    for stock, lean in zip(*batches, strict=True):
        identical(lean, stock)
        assert lean.names == stock.names
    assert sum(int(batch["next", "done"].sum()) for batch in batches[1]) > 2


@pytest.mark.parametrize("name", MEMORIES)
def test_each_episode_begins_blank_and_a_cut_one_keeps_its_state(name):
    env = make()
    batches = collect(SyncDataCollector, env, make_policy(name, env))
    batch = torch.cat(batches, 1)
    first, done = batch["is_init"].squeeze(-1), batch["next", "done"].squeeze(-1)
    assert torch.equal(first, batch["step_count"].squeeze(-1) == 0)
    assert batch["next", "truncated"].any()
    assert not batch["next", "is_init"].any()
    for each in STATES[name]:
        before, after = batch[each], batch["next", each]
        assert not before[first].any()
        assert torch.equal(before[:, 1:][~done[:, :-1]], after[:, :-1][~done[:, :-1]])
        # of which the value beyond the cut is computed
        assert after[done].any(-1).all()


def test_two_memories_are_carried():
    env = make()
    first, second = (
        Memory(None, 4, 3, kind, state=kind, out_keys=[name, *(("next", each) for each in states)])
        for kind, name, states in (("gru", "memory", ["gru"]), ("lstm", "other", ["lstm_h", "lstm_c"]))
    )
    actor = CategoricalActor(nn.Linear(3, 2), env.action_spec, torch.Generator().manual_seed(0), in_keys=["memory"])
    batch = collect(SyncDataCollector, env, TensorDictSequential(first, second, actor), batches=1)[0]
    for each in ("gru", "lstm_h", "lstm_c"):
        assert batch["next", each].shape == (3, STEPS, 1, 3)


def test_several_layers_of_torchrl_are_carried(identical):
    batches = []
    for kind in (Collector, SyncDataCollector):
        env = make()
        torch.manual_seed(0)
        states = {"in_keys": ["observation", "state"], "out_keys": ["memory", ("next", "state")]}
        gru = GRUModule(4, 5, num_layers=2, **states)
        actor = CategoricalActor(nn.Linear(5, 2), env.action_spec, torch.Generator().manual_seed(0), in_keys=["memory"])
        batches.append(collect(kind, env, TensorDictSequential(gru, actor)))
    for stock, lean in zip(*batches, strict=True):
        identical(lean, stock)
    assert lean["state"].shape == (3, STEPS, 2, 5)


STOCK = {
    "not pointwise": (lambda: make(transforms=[RewardSum(in_keys=["reward"], out_keys=["summed"])]), {}),
    "an option": (make, {"set_truncated": True}),
    "TorchRL's environment": (lambda: GymEnv("CartPole-v1", categorical_action_encoding=True), {}),
    "several of TorchRL's": (
        lambda: SerialEnv(2, lambda: GymEnv("CartPole-v1", categorical_action_encoding=True)),
        {},
    ),
}


@pytest.mark.parametrize("name", MEMORIES)
@pytest.mark.parametrize("kind", STOCK)
def test_elsewhere_torchrls_transforms_carry_it(name, kind):
    make_stock, options = STOCK[kind]
    env = make_stock()
    policy, frames = make_policy(name, env), 40 * env.batch_size.numel()
    collector = SyncDataCollector(env, policy, frames_per_batch=frames, total_frames=frames, **options)
    assert not collector.is_lean()
    (batch,) = collector
    for each in STATES[name]:
        first = batch["is_init"].squeeze(-1)
        assert first.any()
        assert not batch[each][first].any()
        assert batch[each][~first].any(-1).all()


def test_environments_may_be_made_by_the_collector():
    policy = make_policy("gru", make())
    (batch,) = SyncDataCollector(make, policy, frames_per_batch=3 * STEPS, total_frames=3 * STEPS)
    assert batch["recurrent_state"].shape == (3, STEPS, 1, 5)
    options = {"frames_per_batch": 3 * STEPS, "total_frames": 6 * STEPS, "use_buffers": False}
    batch = next(iter(WorkerCollector(make, policy_factory=lambda: policy, **options)))
    assert batch["recurrent_state"].shape == (3, STEPS, 1, 5)


def test_what_is_carried_is_a_component_of_checkpoints():
    env = make()
    carried, other = (Carried(make_policy("lstm", env), 3, None) for _ in range(2))
    drawn = {key: torch.randn(3, 1, 5) for key in carried.next_keys}
    carried.keep(drawn)
    other.load_state_dict(carried.state_dict())
    read = other.before([0, 1, 2])
    assert read["is_init"].squeeze(-1).tolist() == [True, False, False]
    for each in STATES["lstm"]:
        assert torch.equal(read[each][1:], drawn["next", each][1:])
        assert not read[each][0].any()
    for state in (None, {}, {"recurrent_state_h": torch.zeros(3, 1, 5)}, Carried(make_policy("gru", env), 3, None)):
        with pytest.raises(ValueError, match="carried"):
            carried.load_state_dict(state.state_dict() if isinstance(state, Carried) else state)


def test_policies_without_a_memory_carry_nothing():
    env = make()
    policy = TensorDictModule(lambda count: count.squeeze(-1) % 2, in_keys=["step_count"], out_keys=["action"])
    carried = Carried(policy, 3, None)
    assert (state_specs(policy), carried.before([1, 2, 3]), carried.next_keys, carried.state_dict()) == ({}, {}, [], {})
    batch = collect(SyncDataCollector, env, policy, batches=1)[0]
    assert "is_init" not in batch.keys()
