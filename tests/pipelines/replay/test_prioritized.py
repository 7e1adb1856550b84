"""Prioritised replay: the sampler by hand, the updates that set priorities, and checkpoints of it."""

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torch import nn
from torchrl.data import LazyTensorStorage, ReplayBuffer, TensorDictReplayBuffer
from torchrl.data.replay_buffers import PrioritizedSampler as StockPrioritizedSampler
from torchrl.objectives import DQNLoss as StockDQNLoss

from rlpipe.errors import CheckpointError
from rlpipe.losses import DQNLoss
from rlpipe.modules import MLP, QActor
from rlpipe.pipelines.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from rlpipe.pipelines.envs import EnvConfig, make_env
from rlpipe.pipelines.replay.prioritized import PrioritizedSampler
from rlpipe.pipelines.replay.state import ReplayState
from rlpipe.pipelines.updates.learning import off_policy
from rlpipe.pipelines.updates.update import gradient_step


def make_buffer(size=100, batch_size=64, kind=ReplayBuffer, seed=0, **options):
    sampler = PrioritizedSampler(size, **{"alpha": 1.0, "beta": 1.0, "eps": 1e-9, **options})
    generator = torch.Generator().manual_seed(seed)
    return kind(storage=LazyTensorStorage(size), sampler=sampler, batch_size=batch_size, generator=generator)


def numbers(start, count):
    return TensorDict({"x": torch.arange(start, start + count)}, [count])


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_transitions_are_drawn_in_proportion_to_their_priority(alpha):
    buffer = make_buffer(batch_size=100_000, alpha=alpha)
    buffer.extend(numbers(0, 70))
    buffer.update_priority(torch.arange(70), torch.arange(70.0))
    share = torch.bincount(buffer.sample()["x"], minlength=70) / 100_000
    expected = (torch.arange(70.0) + 1e-9) ** alpha
    torch.testing.assert_close(share, expected / expected.sum(), rtol=0, atol=0.002)


def test_importance_weights():
    buffer = make_buffer(alpha=1.0, beta=0.5)
    buffer.extend(numbers(0, 3))
    buffer.update_priority(torch.arange(3), torch.tensor([[1.0], [4.0], [9.0]]))
    minibatch, drawn = buffer.sample(return_info=True)
    # P is 1/14, 4/14, 9/14; (3 P)^-0.5 over the largest, that of the first, is 1, 1/2, 1/3
    torch.testing.assert_close(drawn["priority_weight"], 1.0 / (minibatch["x"] + 1.0))
    assert torch.equal(drawn["index"], minibatch["x"])
    buffer.sampler.beta = 0.0
    assert torch.equal(buffer.sample(return_info=True)[1]["priority_weight"], torch.ones(64))


def test_new_transitions_have_the_largest_priority_that_there_was():
    buffer = make_buffer(size=4, batch_size=10_000)
    buffer.extend(numbers(0, 3))
    buffer.update_priority(torch.tensor([0, 1, 2]), torch.tensor([9.0, 0.5, 0.5]))
    buffer.update_priority(torch.tensor([0]), torch.tensor([1.0]))
    buffer.extend(numbers(3, 2))
    # the fourth, and the first of them overwritten: 9 each, of 19
    share = torch.bincount(buffer.sample()["x"], minlength=5) / 10_000
    torch.testing.assert_close(share, torch.tensor([0, 0.5, 0.5, 9, 9]) / 19, rtol=0, atol=0.02)


def test_messages():
    with pytest.raises(ValueError, match="alpha, beta and eps are -1, 0.4, 1e-06"):
        PrioritizedSampler(4, alpha=-1)
    buffer = make_buffer()
    buffer.extend(numbers(0, 4))
    with pytest.raises(ValueError, match=r"priority has shape \[3\], expected \[2\]"):
        buffer.update_priority(torch.tensor([0, 1]), torch.ones(3))
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="negative, infinite or NaN"):
            buffer.update_priority(torch.tensor([0]), torch.tensor([wrong]))
    uniform = ReplayBuffer(storage=LazyTensorStorage(10), batch_size=4)
    with pytest.raises(ValueError, match="reads 'priority_weight', .* this one has a RandomSampler"):
        off_policy(uniform, None, updates=1, warmup=1, keys=["priority_weight"])
    learn = off_policy(buffer, lambda minibatch: TensorDict(loss=torch.zeros(())), updates=1, warmup=1, keys=["x"])
    with pytest.raises(ValueError, match="the loss returns no 'priority'"):
        learn(numbers(0, 4))


class Told(nn.Module):
    """An update that keeps what it was given, and says that each priority is the transition's number."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, minibatch):
        self.seen.append(minibatch)
        return TensorDict({"loss_x": torch.tensor(1.0), "priority": minibatch["x"] + 1.0})


@pytest.mark.parametrize("kind", [ReplayBuffer, TensorDictReplayBuffer])
def test_off_policy_hands_out_the_weights_and_takes_the_priorities(kind):
    buffer, update = make_buffer(kind=kind, batch_size=32), Told()
    learn = off_policy(buffer, update, updates=30, warmup=1, keys=["x", "priority_weight"])
    out = learn(numbers(0, 8))
    assert set(out.keys()) == {"loss_x", "updates"}
    assert all(minibatch["priority_weight"].shape == (32,) for minibatch in update.seen)
    # by now each has been drawn
    minibatch, drawn = buffer.sample(return_info=True)
    torch.testing.assert_close(drawn["priority_weight"], 1.0 / (minibatch["x"] + 1.0))


@pytest.mark.filterwarnings("ignore:No target network updater")
def test_torchrl_loss_on_prioritised_replay():
    env = make_env(EnvConfig("CartPole-v1", 4), seed=0)
    actor = QActor(MLP(4, 2), env.action_spec)
    loss = StockDQNLoss(actor, delay_value=True)
    loss.make_value_estimator(gamma=0.9)
    update = gradient_step(loss, torch.optim.Adam(loss.parameters()))
    buffer = make_buffer(size=64, batch_size=256)
    keys = ["observation", "action", *(("next", key) for key in ("observation", "reward", "done", "terminated"))]
    learn = off_policy(buffer, update, updates=1, warmup=1, keys=keys)
    before = buffer.sampler.state_dict()["raised"].copy()
    learn(env.rollout(16, break_when_any_done=False))
    assert (before != buffer.sampler.state_dict()["raised"]).sum() > 50


def learned(execution, batches=14, **keys):
    """The weights after some minibatches drawn by priority, and the priorities."""
    env = make_env(EnvConfig("CartPole-v1", 4), seed=0)
    torch.manual_seed(0)
    actor = QActor(MLP(4, 2), env.action_spec)
    loss = DQNLoss(actor, prioritized=True)
    loss.set_keys(**keys)
    update = gradient_step(loss, torch.optim.Adam(actor.parameters()), execution=execution)
    buffer = make_buffer(size=64, alpha=0.6, beta=0.4)
    learn = off_policy(buffer, update, updates=2, warmup=1, keys=loss.in_keys)
    rollout = env.rollout(16, break_when_any_done=False)
    for _ in range(batches):
        learn(rollout)
    return torch.cat([each.flatten() for each in actor.parameters()]), buffer.sampler.state_dict()["raised"]


def test_weights_and_priorities_may_have_other_keys():
    plain, other = learned("eager"), learned("recorded", priority="error", priority_weight=("deep", "weight"))
    assert all(map(torch.equal, map(torch.as_tensor, plain), map(torch.as_tensor, other)))


def test_recorded_updates_are_the_same_to_the_bit():
    (weights, priorities), (eager_weights, eager_priorities) = learned("recorded"), learned("eager")
    assert torch.equal(weights, eager_weights)
    assert np.array_equal(priorities, eager_priorities)


@pytest.mark.parametrize("kind", [ReplayBuffer, TensorDictReplayBuffer])
@pytest.mark.parametrize("held", [30, 130])
def test_a_checkpoint_holds_the_priorities_to_the_bit(kind, held, tmp_path, identical):
    def used(seed):
        buffer = make_buffer(kind=kind, seed=seed, alpha=0.6, beta=0.4)
        for start in range(0, held, 10):
            buffer.extend(numbers(start, 10))
            drawn = buffer.sample(return_info=True)[1]["index"]
            buffer.update_priority(drawn, torch.rand(64, generator=torch.Generator().manual_seed(seed + start)))
        buffer.sampler.beta = 0.5 + seed
        return buffer

    one, other = used(0), used(1)
    save_checkpoint(tmp_path / "one", {"replay": ReplayState(one)}, {})
    load_checkpoint(tmp_path / "one", {"replay": ReplayState(other)})
    other._rng.set_state(one._rng.get_state())
    identical(other[:], one[:])
    for _ in range(3):
        (ours, drawn), (theirs, wanted) = (buffer.sample(return_info=True) for buffer in (other, one))
        identical(ours, theirs)
        assert torch.equal(drawn["priority_weight"], wanted["priority_weight"])
        for buffer in (one, other):
            buffer.update_priority(wanted["index"], torch.linspace(0, 3, 64))
            buffer.extend(numbers(500, 7))
        identical(other[:], one[:])


@pytest.mark.parametrize("wrong", [{"largest": float("nan")}, {"alpha": "1"}, {"raised": np.zeros(3)}])
def test_a_state_of_others_is_refused(wrong):
    buffer = make_buffer()
    buffer.extend(numbers(0, 8))
    state = ReplayState(buffer).state_dict()
    state["priorities"] = {**state["priorities"], **wrong}
    with pytest.raises(ValueError, match="priorities"):
        ReplayState(make_buffer()).load_state_dict(state)


def test_priorities_and_none_do_not_go_together(tmp_path):
    buffer = make_buffer()
    buffer.extend(numbers(0, 8))
    save_checkpoint(tmp_path / "one", {"replay": ReplayState(buffer)}, {})
    uniform = ReplayBuffer(storage=LazyTensorStorage(100), batch_size=4)
    with pytest.raises(CheckpointError, match=r"the state has \['held', 'priorities', 'writer'\]"):
        load_checkpoint(tmp_path / "one", {"replay": ReplayState(uniform)})


def test_a_noisy_network_is_recorded_with_its_draws_to_the_bit():
    from torchrl.envs.utils import ExplorationType
    from torchrl.modules import NoisyLinear, reset_noise

    def weights(execution):
        env = make_env(EnvConfig("CartPole-v1", 4), seed=0)
        torch.manual_seed(0)
        actor = QActor(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), NoisyLinear(8, 2)), env.action_spec)
        loss = DQNLoss(actor)
        optimizer = torch.optim.Adam(actor.parameters(), lr=0.1)
        update = gradient_step(loss, optimizer, after=[lambda: loss.apply(reset_noise)], execution=execution)
        batch = env.rollout(16, break_when_any_done=False).reshape(-1)
        for number in range(40):
            # the mean at first and at the end, which is another kind of update
            noisy = 10 < number < 30
            loss.deterministic_sampling_mode = ExplorationType.RANDOM if noisy else ExplorationType.DETERMINISTIC
            update(batch)
            if number in (5, 20):
                yield actor.network[-1].weight_sigma.clone()
        yield torch.cat([each.flatten() for each in actor.parameters()])

    (before, during, ours), (*_, theirs) = list(weights("recorded")), list(weights("eager"))
    assert torch.equal(ours, theirs)
    assert not torch.equal(before, during)


@pytest.mark.parametrize(("size", "numbers"), [(100, (1, 101)), (100, (0, 10)), (100, (-3, 10)), (100, (1, -1))])
def test_updates_and_warmup_that_cannot_be(size, numbers):
    updates, warmup = numbers
    with pytest.raises(ValueError, match=f"updates is {updates} and warmup {warmup}; allowed are"):
        off_policy(make_buffer(size), lambda batch: batch, updates=updates, warmup=warmup, keys=["x"])


def test_a_sampler_that_is_too_small_for_its_buffer():
    buffer = ReplayBuffer(storage=LazyTensorStorage(200), sampler=PrioritizedSampler(100), batch_size=8)
    with pytest.raises(ValueError, match="the sampler is for 100 transitions, and the buffer has 200"):
        off_policy(buffer, lambda batch: batch, updates=1, warmup=0, keys=["x"])


@pytest.mark.parametrize("wrong", [{"alpha": float("nan")}, {"beta": float("inf")}, {"eps": 0.0}, {"alpha": -1.0}])
def test_exponents_that_cannot_be(wrong):
    with pytest.raises(ValueError, match="alpha, beta and eps are"):
        PrioritizedSampler(10, **wrong)


def test_one_priority_for_many_transitions_is_refused():
    buffer = make_buffer()
    buffer.extend(numbers(0, 10))
    with pytest.raises(ValueError, match="expected .10.: one a transition"):
        buffer.update_priority(torch.arange(10), torch.tensor(0.5))


def test_no_checkpoint_is_promised_for_the_priorities_of_another_sampler():
    class Stock(StockPrioritizedSampler):
        def __init__(self):  # its own wants compiled code
            pass

    buffer = make_buffer()
    buffer._sampler = Stock()
    with pytest.raises(ValueError, match="no checkpoint holds the priorities of TorchRL's sampler"):
        ReplayState(buffer)
