"""How batches become updates: epochs over a batch, replay, the whole batch once; and which entries are kept for it."""

import pytest
import torch
from small_losses import make_two_action_modules, two_steps
from tensordict import TensorDict
from tensordict.nn import TensorDictSequential
from torch import nn
from torchrl.data import Categorical, LazyTensorStorage, ListStorage, ReplayBuffer
from torchrl.data.replay_buffers import SamplerWithoutReplacement

from rlpipe.losses import GAE, ClipPPOLoss
from rlpipe.modules import MLP, CategoricalActor, Critic, Memory, over_episodes
from rlpipe.pipelines.replay.state import NotSaved, ReplayState
from rlpipe.pipelines.updates.combining import every, in_turn
from rlpipe.pipelines.updates.learning import off_policy, on_policy, once
from rlpipe.pipelines.updates.update import gradient_step


def frames(start, count):
    values = torch.arange(start, start + count).reshape(2, -1)
    after = TensorDict({"reward": values.unsqueeze(-1)}, values.shape)
    return TensorDict({"observation": values, "unused": values, "next": after}, values.shape)


class Recorder:
    """An update that keeps what it was given."""

    def __init__(self):
        self.seen = []

    def __call__(self, minibatch):
        self.seen.append(minibatch.clone())
        return TensorDict({"loss_x": torch.tensor(float(len(self.seen)))})


@pytest.mark.parametrize("size", [12, 30])
def test_on_policy_makes_each_epoch_a_permutation_of_the_batch_with_its_advantages(size):
    update = Recorder()
    buffer = ReplayBuffer(storage=LazyTensorStorage(size), sampler=SamplerWithoutReplacement(), batch_size=5)

    def advantage(batch):
        return batch.set("advantage", -batch["observation"])

    learn = on_policy(advantage, buffer, update, epochs=2, keys=["observation", "advantage"])
    for start in (0, 100):
        update.seen.clear()
        out = learn(frames(start, 12))
        assert [len(minibatch) for minibatch in update.seen] == [5, 5, 2, 5, 5, 2]
        for epoch in (update.seen[:3], update.seen[3:]):
            seen = torch.cat(epoch)
            assert sorted(seen["observation"].tolist()) == list(range(start, start + 12))
            assert torch.equal(seen["advantage"], -seen["observation"])
            assert set(seen.keys()) == {"observation", "advantage"}
        assert out["updates"] == 6
        assert out["loss_x"] == 3.5


def test_off_policy_waits_for_the_warmup_and_keeps_the_newest():
    update = Recorder()
    buffer = ReplayBuffer(storage=LazyTensorStorage(20), batch_size=64)
    keys = ["observation", ("next", "reward")]
    learn = off_policy(buffer, update, updates=3, warmup=15, keys=keys)
    assert learn(frames(0, 12))["updates"] == 0
    assert not update.seen
    assert learn(frames(12, 12))["updates"] == 3
    assert [len(minibatch) for minibatch in update.seen] == [64, 64, 64]
    stored = set(torch.cat(update.seen)["observation"].tolist())
    assert stored == set(range(4, 24))
    assert set(update.seen[0].keys(True, True)) == set(keys)
    assert torch.equal(update.seen[0]["next", "reward"].squeeze(-1), update.seen[0]["observation"])


def rounds(size=12, batch_size=5):
    return ReplayBuffer(storage=LazyTensorStorage(size), sampler=SamplerWithoutReplacement(), batch_size=batch_size)


class Reader(Recorder):
    """The same, which says what it reads."""

    def __init__(self, *in_keys):
        super().__init__()
        self.in_keys = in_keys


class Advantage:
    """Writes two entries."""

    out_keys = ("advantage", "value_target")

    def __call__(self, batch):
        return batch.set("advantage", -batch["observation"]).set("value_target", batch["observation"])


@pytest.mark.parametrize(
    ("in_keys", "kept"),
    [
        (["observation"], {"observation", "advantage", "value_target"}),
        (["observation", "advantage"], {"observation", "advantage"}),
        ([("next", "reward")], {("next", "reward"), "advantage", "value_target"}),
    ],
)
def test_without_keys_an_update_gets_what_it_reads_and_what_the_advantage_writes(in_keys, kept):
    first, second = Reader(*in_keys), Reader(*in_keys)
    on_policy(Advantage(), rounds(), first, epochs=1)(frames(0, 12))
    once(second, advantage=Advantage())(frames(0, 12))
    assert set(first.seen[0].keys(True, True)) == set(second.seen[0].keys(True, True)) == kept


def test_without_keys_replay_stores_what_any_update_reads():
    buffer = ReplayBuffer(storage=LazyTensorStorage(20), batch_size=4)
    update = in_turn(one=Reader("observation"), other=every(2, Reader(("next", "reward"), "observation")))
    learn = off_policy(buffer, update, updates=2, warmup=1)
    assert learn(frames(0, 12))["updates"] == 2
    assert set(buffer[:].keys(True, True)) == {"observation", ("next", "reward")}


def test_an_update_that_does_not_say_what_it_reads_needs_keys():
    def step(minibatch):
        return TensorDict(loss=minibatch["observation"].sum())

    for name, make in {
        "on_policy": lambda **keys: on_policy(Advantage(), rounds(), step, epochs=1, **keys),
        "off_policy": lambda **keys: off_policy(rounds(), step, updates=1, warmup=1, **keys),
        "once": lambda **keys: once(step, **keys),
    }.items():
        with pytest.raises(
            ValueError, match=f"{name} cannot tell what to keep of a batch, because step has no in_keys"
        ):
            make()
        assert make(keys=["observation"])(frames(0, 12))["updates"] >= 1
    with pytest.raises(ValueError, match="because InTurn has no in_keys"):
        once(in_turn(Reader("observation"), step))


class Reads(nn.Module):
    """A loss of one weight."""

    def __init__(self, *in_keys):
        super().__init__()
        self.weight, self.in_keys = nn.Parameter(torch.ones(())), in_keys

    def forward(self, minibatch):
        return TensorDict(loss=self.weight.square())


def step_of(*in_keys):
    loss = Reads(*in_keys)
    return gradient_step(loss, torch.optim.SGD(loss.parameters()))


def test_a_key_that_the_batch_lacks_is_named_with_its_reader():
    for make in (
        once,
        lambda update: off_policy(rounds(), update, updates=1, warmup=1),
        lambda update: on_policy(lambda batch: batch, rounds(), update, epochs=1),
    ):
        with pytest.raises(
            KeyError, match=r"Reads reads key \('next', 'cost'\), which the batch does not have; it has"
        ):
            make(in_turn(Reader("observation"), every(2, step_of("observation", ("next", "cost")))))(frames(0, 12))


def test_attributes_may_be_changed_while_it_learns():
    learn = on_policy(Advantage(), rounds(), Reader("observation"), epochs=1)
    assert learn(frames(0, 12))["updates"] == 3
    learn.epochs = 2
    assert learn(frames(0, 12))["updates"] == 6
    learn.update = other = Reader("unused")
    learn(frames(0, 12))
    assert len(other.seen) == 6
    replay = off_policy(rounds(20), Reader("observation"), updates=1, warmup=1)
    assert replay(frames(0, 12))["updates"] == 1
    replay.updates = 4
    assert replay(frames(12, 8))["updates"] == 4


def skipping(at):
    """An update that is skipped the `at`th time."""
    update = Reader("observation")

    def step(minibatch):
        scalars = update(minibatch)
        return scalars.set("updates", torch.tensor(0)) if len(update.seen) == at else scalars

    step.in_keys, step.seen = update.in_keys, update.seen
    return step


@pytest.mark.parametrize(("at", "made"), [(1, 0), (5, 4), (6, 5), (7, 6)])
def test_a_skipped_update_ends_the_epochs(at, made):
    update = skipping(at)
    learn = on_policy(lambda batch: batch, rounds(), update, epochs=2)
    out = learn(frames(0, 12))
    assert (len(update.seen), out["updates"]) == (min(at, 6), made)
    # its entries count
    assert out["loss_x"] == torch.arange(1.0, 1 + min(at, 6)).mean()
    assert "epochs" not in out
    update.seen.clear()
    learn(frames(100, 12))
    first = torch.cat([each["observation"] for each in update.seen[:3]])
    assert {*first.tolist()} <= set(range(100, 112))
    assert len({*first.tolist()}) == len(first)


def test_the_passes_are_told_if_steps_may_be_skipped():
    update = step_of("observation")
    learn = on_policy(lambda batch: batch, rounds(), update, epochs=2)
    assert "epochs" not in learn(frames(0, 12))
    count = 0

    def fifth(terms):
        nonlocal count
        count += 1
        return count == 5

    update.skip_if = fifth
    out = learn(frames(0, 12))
    assert (out["updates"].item(), out["epochs"].item()) == (4, pytest.approx(4 / 3))
    assert learn(frames(0, 12))["epochs"] == 2
    # without the incomplete minibatch at the end
    learn.buffer = rounds()
    learn.buffer.sampler.drop_last = True
    assert learn(frames(0, 12))["epochs"] == 2


def test_replay_goes_on_after_a_skipped_update():
    update = skipping(2)
    assert off_policy(rounds(20), update, updates=4, warmup=1)(frames(0, 12))["updates"] == 3
    assert len(update.seen) == 4


def test_what_they_hold():
    actor, critic = make_two_action_modules()
    loss = ClipPPOLoss(actor, critic)
    update = gradient_step(loss, torch.optim.SGD(loss.parameters()))
    own = {"loss": loss, "optimizer": update.optimizer}
    advantage = GAE(Critic(MLP(1, 1)))
    assert on_policy(advantage, rounds(), update, epochs=1).held == {**own, "advantage": advantage}
    assert once(update, advantage=lambda batch: advantage(batch.clone())).held == {**own, "advantage": advantage}
    assert once(update).held == own
    held = off_policy(buffer := rounds(20), update, updates=1, warmup=1).held
    assert held.keys() == {*own, "replay"}
    assert isinstance(held["replay"], ReplayState)
    assert held["replay"].buffer is buffer
    assert once(update)(two_steps().set("action_log_prob", torch.zeros(2)))["updates"] == 1


def test_a_buffer_that_cannot_be_saved_is_told_of_when_it_is_saved():
    buffer = ReplayBuffer(storage=ListStorage(20), batch_size=4)
    with pytest.raises(ValueError, match="no checkpoint holds a ListStorage; use a LazyTensorStorage"):
        ReplayState(buffer)
    part = off_policy(buffer, Reader("observation"), updates=1, warmup=1).held["replay"]
    assert isinstance(part, NotSaved)
    with pytest.raises(TypeError, match="no checkpoint holds a ListStorage"):
        part.state_dict()
    with pytest.raises(TypeError, match="no checkpoint holds a ListStorage"):
        part.load_state_dict({})


def test_a_memory_that_learns_from_single_steps_is_named(caplog):
    memory = Memory(MLP(4, 8, ()), 8, 3, "gru")
    head = CategoricalActor(nn.Linear(3, 2), Categorical(2, (2,)), in_keys=["memory"])
    actor, critic = (TensorDictSequential(memory, each) for each in (head, Critic(nn.Linear(3, 1), in_keys=["memory"])))
    loss = ClipPPOLoss(actor, critic)
    step = gradient_step(loss, torch.optim.SGD(loss.parameters(), 0.1))

    def rounds():
        return ReplayBuffer(storage=ListStorage(4), sampler=SamplerWithoutReplacement(), batch_size=2)

    on_policy(GAE(critic), rounds(), step, epochs=1, sequences=True)
    once(step, advantage=GAE(critic), sequences=True)
    once(gradient_step(over_episodes(actor), step.optimizer), keys=["observation", "is_init"])
    assert not caplog.messages
    on_policy(GAE(critic), rounds(), lambda minibatch: step(minibatch), epochs=1, keys=loss.in_keys)  # noqa: PLW0108
    once(step, advantage=GAE(critic))
    off_policy(ReplayBuffer(storage=ListStorage(4), batch_size=2), step, updates=1, warmup=0, keys=loss.in_keys)
    named = "rlpipe: the memory of 'recurrent_state' does not learn what to remember"
    assert [each.split(",")[0] for each in caplog.messages] == [named] * 3
    assert [each.split("; ")[1][:11] for each in caplog.messages] == ["with sequen"] * 2 + ["replay has "]
