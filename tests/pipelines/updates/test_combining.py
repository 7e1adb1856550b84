"""Updates made of others: every n-th time and in turn; and means of entries that only some updates return."""

import pytest
import torch
from tensordict import TensorDict
from torch import nn
from torchrl.data import LazyTensorStorage, ReplayBuffer

from rlpipe.pipelines.replay.prioritized import PrioritizedSampler
from rlpipe.pipelines.updates.combining import every, in_turn, mean_of
from rlpipe.pipelines.updates.learning import off_policy
from rlpipe.pipelines.updates.update import gradient_step


def test_mean_of():
    scalars = [TensorDict({"x": torch.tensor(value)}) for value in (1.0, 4.0)]
    out = mean_of(scalars)
    assert (out["x"], out["updates"]) == (2.5, 2)
    assert mean_of([])["updates"] == 0


def test_a_mean_is_over_the_updates_that_return_the_entry():
    rows = [{"x": 1.0, "y": 3.0}, {"x": 4.0}, {}, {"y": 5.0, "updates": 0}, {"z": True}]
    out = mean_of([TensorDict({key: torch.tensor(value) for key, value in row.items()}) for row in rows])
    # the empty one made no step, and the last but one was skipped
    assert out.to_dict() == {"x": 2.5, "y": 4.0, "z": 1.0, "updates": 3}


def test_an_entry_with_a_number_a_sample_counts_with_its_mean():
    rows = [TensorDict(x=torch.tensor([[1.0, 2.0]])), TensorDict(x=torch.tensor([4.5])), TensorDict(x=torch.tensor(3))]
    out = mean_of(rows)
    assert (out["x"], out["x"].shape) == (3.0, ())


def counting(**entries):
    """An update that numbers its calls."""
    calls = []

    def step(minibatch):
        calls.append(minibatch)
        return TensorDict({name: torch.tensor(value) for name, value in entries.items()})

    step.calls = calls
    return step


def test_every_nth_call():
    step = counting(loss=1.0)
    update = every(3, step)
    returned = [bool(len(update(TensorDict()).keys())) for _ in range(7)]
    assert returned == [False, False, True, False, False, True, False]
    assert len(step.calls) == 2
    other = every(3, step)
    other.load_state_dict(update.state_dict())
    assert [bool(len(other(TensorDict()).keys())) for _ in range(3)] == [False, True, False]
    other.n = 1
    assert other(TensorDict())["loss"] == 1.0
    for wrong in (-1, 1.0, True):
        with pytest.raises(ValueError, match="calls is .*, expected a whole number"):
            other.load_state_dict({"calls": wrong})
    for wrong in (0, -2, 1.0, True):
        with pytest.raises(ValueError, match="n is .*, allowed is a whole number of 1 or more"):
            every(wrong, step)


def test_in_turn_makes_each_on_the_same_minibatch_and_puts_their_entries_together():
    seen = []
    first, second = counting(loss_a=1.0, grad_norm=2.0), counting(loss_b=3.0, grad_norm=4.0)
    update = in_turn(lambda batch: seen.append(1) or first(batch), lambda batch: seen.append(2) or second(batch))
    minibatch = TensorDict()
    assert update(minibatch).to_dict() == {"loss_a": 1.0, "grad_norm_1": 2.0, "loss_b": 3.0, "grad_norm_2": 4.0}
    assert first.calls[0] is second.calls[0] is minibatch
    assert seen == [1, 2]
    assert mean_of([update(minibatch)])["updates"] == 1
    assert in_turn(first)(minibatch).to_dict() == {"loss_a": 1.0, "grad_norm": 2.0}


def test_names_of_entries_do_not_depend_on_which_updates_were_made():
    same = {"loss": 1.0, "grad_norm": 2.0, "q": 3.0}
    update = in_turn(every(2, counting(**same)), counting(**same))
    assert set(update(TensorDict()).keys()) == {"loss", "grad_norm_2", "q"}
    with pytest.raises(ValueError, match="two updates of in_turn return 'loss'; give them names"):
        update(TensorDict())
    named = in_turn(critic=every(2, counting(**same)), actor=counting(**same))
    actor = {"loss_actor": 1.0, "grad_norm_actor": 2.0, "q_actor": 3.0}
    assert named(TensorDict()).to_dict() == actor
    assert named(TensorDict()).to_dict() == {**actor, "loss_critic": 1.0, "grad_norm_critic": 2.0, "q_critic": 3.0}


def test_in_turn_is_skipped_if_all_that_were_made_are():
    skipped, made, none = counting(a=1.0, updates=0), counting(b=1.0), every(9, counting(c=1.0))
    assert in_turn(skipped, none)(TensorDict()).to_dict() == {"a": 1.0, "updates": 0}
    assert in_turn(skipped, made)(TensorDict()).to_dict() == {"a": 1.0, "b": 1.0}
    assert in_turn(none, none)(TensorDict()).is_empty()


def test_in_turn_takes_names_for_all_updates_or_for_none():
    step = counting(loss=1.0)
    for positional, named in (((), {}), ((step,), {"actor": step})):
        with pytest.raises(ValueError, match="give it some, and a name to all or to none"):
            in_turn(*positional, **named)


class Squares(nn.Module):
    """A loss with a priority for each sample."""

    in_keys = ["x", "priority_weight"]

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, minibatch):
        return TensorDict(loss=self.weight.square(), priority=minibatch["x"].float())


@pytest.mark.parametrize("kind", ["in_turn", "named", "every"])
def test_priorities_pass_through(kind):
    loss = Squares()
    step = gradient_step(loss, torch.optim.SGD(loss.parameters(), lr=0.1))
    other = counting(other=1.0)
    other.in_keys = []
    update = {
        "in_turn": lambda: in_turn(step, other),
        "named": lambda: in_turn(critic=step, actor=every(2, other)),
        "every": lambda: every(3, step),
    }[kind]()
    buffer = ReplayBuffer(storage=LazyTensorStorage(8), sampler=PrioritizedSampler(8, alpha=1.0), batch_size=64)
    learn = off_policy(buffer, update, updates=6, warmup=1)
    out = learn(TensorDict(x=torch.arange(8), batch_size=[8]))
    assert out["updates"] == {"in_turn": 6, "named": 6, "every": 2}[kind]
    torch.testing.assert_close(buffer.sampler.state_dict()["raised"], 1e-6 + torch.arange(8.0).double().numpy())
    assert not any("priority" in key for key in out.keys())
    with pytest.raises(ValueError, match="two updates of in_turn return 'priority'; a transition has one"):
        in_turn(a=step, b=step)(buffer.sample())


def test_what_they_read_and_hold():
    one, two = Squares(), Squares()
    steps = [gradient_step(each, torch.optim.SGD(each.parameters())) for each in (one, two)]
    two.in_keys = ["y", "x"]
    later = every(2, steps[1])
    update = in_turn(steps[0], later, steps[0])
    assert update.in_keys == ["x", "priority_weight", "y"]
    held = {"loss": one, "optimizer": steps[0].optimizer, "every": later, "loss_2": two}
    assert update.held == {**held, "optimizer_2": steps[1].optimizer}
    assert in_turn(steps[0], lambda minibatch: minibatch).in_keys is None
