"""What a pipeline adds to its state: what its functions hold, once each, and generators that nothing saves."""

import functools

import pytest
import torch
from comparing import fingerprint
from composed import clipped, delayed, go, resumed
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torchrl.data import LazyTensorStorage, ReplayBuffer
from torchrl.data.replay_buffers import SamplerWithoutReplacement
from torchrl.objectives import HardUpdate, SoftUpdate

from rlpipe.losses import TargetUpdate, frozen_copy
from rlpipe.pipelines.checkpoints.parts import Generators, completed, name_of, parts_of, together
from rlpipe.pipelines.replay.image_buffer import ImageReplay
from rlpipe.pipelines.replay.prioritized import PrioritizedSampler
from rlpipe.pipelines.replay.state import ReplayState, replay_parts
from rlpipe.pipelines.seeding import Seeds
from rlpipe.pipelines.updates.combining import every, in_turn
from rlpipe.pipelines.updates.learning import off_policy, on_policy
from rlpipe.pipelines.updates.update import gradient_step

MADE = {"delayed": delayed, "function": functools.partial(delayed, plain=True), "clipped": clipped}


@pytest.mark.parametrize("made", MADE)
def test_a_composed_algorithm_resumes_to_the_bit_though_its_state_names_nothing(made, tmp_path):
    make = MADE[made]
    whole = go(tmp_path / "whole", make)
    resumed(tmp_path / "cut", make, killed_at=8)
    assert fingerprint(tmp_path / "cut") == fingerprint(tmp_path / "whole")
    own = ["loss", "optimizer"] if made == "clipped" else DELAYED
    assert list(whole.state) == ["policy", *own, "generators", "environments"]


DELAYED = ["loss", "optimizer", "target", "schedule", "every", "loss_2", "optimizer_2", "replay"]


class Loss(nn.Module):
    """A loss over a network, with a generator of its own."""

    in_keys = ["x"]

    def __init__(self, network, generator=None):
        super().__init__()
        self.network, self.generator = network, generator


def step_of(loss, **options):
    return gradient_step(loss, torch.optim.SGD(loss.parameters(), lr=0.1), **options)


def policy_of(network):
    return TensorDictModule(network, in_keys=["x"], out_keys=["action"])


def buffer_of(generator=None, **options):
    return ReplayBuffer(storage=LazyTensorStorage(8), batch_size=4, generator=generator, **options)


def test_each_object_is_added_once():
    network = nn.Linear(2, 2)
    policy, loss = policy_of(network), Loss(network)
    loss.target = frozen_copy(network)
    target = TargetUpdate(network, loss.target)
    update = in_turn(step_of(loss, after=[target]), step_of(loss, after=[target, loss.zero_grad]))
    learn = off_policy(buffer_of(), update, updates=1, warmup=1)
    state = completed({}, policy, learn)
    assert list(state) == ["policy", "loss", "optimizer", "target", "optimizer_2", "replay"]
    assert state["policy"] is policy
    assert state["target"] is target
    # named by the user under other names: nothing is added
    named = {"a": state["loss"], "b": state["optimizer"], "c": target, "d": state["optimizer_2"]}
    whole = completed({"policy": policy, **named, "e": ReplayState(learn.buffer)}, policy, learn)
    assert list(whole) == ["policy", "a", "b", "c", "d", "e"]
    state = completed({"loss": nn.Linear(1, 1)}, policy, step_of(loss))
    assert list(state) == ["policy", "loss", "loss_2", "optimizer"]


def test_a_module_whose_tensors_are_all_saved_is_not_added():
    network = nn.Linear(2, 2)
    policy = policy_of(network)
    state = completed({}, policy, step_of(Loss(network)))
    assert list(state) == ["policy", "optimizer"]
    both = nn.ModuleList([network, nn.Linear(1, 1)])
    assert list(completed({"both": both}, policy, step_of(Loss(both[1])))) == ["policy", "both", "optimizer"]
    assert list(completed({}, policy, step_of(Counts(network)))) == ["policy", "loss", "optimizer"]


class Counts(Loss):
    """A loss with a state besides its tensors."""

    def get_extra_state(self):
        return {"count": 1}

    def set_extra_state(self, state):
        pass


def test_generators_that_no_part_saves_are_one_component():
    seeds = Seeds(0)
    own = [torch.Generator().manual_seed(number) for number in range(4)]
    network = nn.Linear(2, 2)
    policy = TensorDictSequential(policy_of(network))
    policy.generator, policy.more = own[0], {"noise": [seeds.generator("exploration")]}
    loss = Loss(network, own[1])
    buffer = buffer_of(own[2], sampler=SamplerWithoutReplacement())
    advantage = Loss(network, own[3])
    learn = on_policy(advantage, buffer, step_of(loss), epochs=1)
    state = completed({"random": seeds}, policy, learn)
    assert list(state) == ["policy", "random", "optimizer", "generators"]
    assert {id(each) for each in state["generators"].saves()} == set(map(id, own))
    without = completed({"random": seeds, "noise": Generators(own)}, policy, learn)
    assert list(without) == ["policy", "random", "noise", "optimizer"]
    # without Seeds, theirs is added
    assert len(completed({}, policy, learn)["generators"].saves()) == 5


def test_generators_are_restored_and_another_number_is_refused():
    one, two = (torch.Generator().manual_seed(number) for number in range(2))
    saved = Generators([one, two]).state_dict()
    drawn = [torch.rand(3, generator=each).tolist() for each in (one, two)]
    Generators([one, two]).load_state_dict(saved)
    assert [torch.rand(3, generator=each).tolist() for each in (one, two)] == drawn
    with pytest.raises(ValueError, match="the state is of 2 generators, expected 1"):
        Generators([one]).load_state_dict(saved)


def test_what_saves_a_buffer_saves_what_is_in_it():
    sampler = PrioritizedSampler(8)
    buffer = buffer_of(sampler=sampler)
    update = step_of(Loss(nn.Linear(1, 1)))
    replay = off_policy(buffer, update, updates=1, warmup=1)

    def learn(batch):
        sampler.beta += 0.1
        return replay(batch)

    policy = nn.Linear(1, 1)
    assert list(completed({"mine": ReplayState(buffer)}, policy, learn)) == ["policy", "mine", "loss", "optimizer"]
    images = ImageReplay(32, [2, 4, 4], batch_size=4)
    parts = replay_parts(images)
    store, learn_images = images.images, off_policy(images, update, updates=1, warmup=1)

    def number_and_learn(batch):
        return learn_images(store.number(batch))

    whole = completed(parts, policy, number_and_learn)
    assert list(whole) == ["policy", *parts, "loss", "optimizer"]
    assert len(parts) > 1
    assert set(completed({}, policy, learn_images)) == {"policy", *parts, "loss", "optimizer"}


def test_a_buffer_that_only_a_function_uses_is_saved():
    buffer = buffer_of()

    def learn(batch):
        buffer.extend(batch)
        return buffer.sample()

    state = completed({}, nn.Linear(1, 1), learn)
    assert list(state) == ["policy", "replay"]
    learn(TensorDict({"x": torch.arange(3.0)}, batch_size=[3]))
    saved = state["replay"].state_dict()
    other = buffer_of()
    ReplayState(other).load_state_dict(saved)
    assert other[:]["x"].tolist() == [0, 1, 2]


SOMETHING = nn.Linear(1, 1)


def test_a_function_holds_what_its_variables_do():
    loss, later = Loss(nn.Linear(1, 1)), None
    update = step_of(loss)
    counter = every(2, update)
    network, _other = nn.Linear(1, 1), {"x": [nn.Linear(1, 1)]}

    def outer(batch):
        return [inner(batch) for _ in range(1)]

    def inner(batch):
        return counter(batch), _other, (lambda: SOMETHING(batch)), later, unset

    held = parts_of(functools.partial(outer, network))
    own = {"every": counter, "loss": loss, "optimizer": update.optimizer}
    assert held == {**own, "x": _other["x"][0], "something": SOMETHING, "linear": network}
    assert parts_of(inner, "name").keys() == held.keys() - {"linear"}
    assert parts_of(loss.forward) == {"loss": loss}
    assert parts_of(Learner(update)) == {"loss": loss, "optimizer": update.optimizer}
    assert parts_of(torch.relu) == parts_of(None) == parts_of(3) == parts_of(Learner) == {}
    # set only now
    unset = 1
    assert unset

    def with_defaults(batch, own=loss, *, count=counter):
        return own(batch), count(batch)

    assert parts_of(with_defaults) == {"own": loss, "every": counter, "optimizer": update.optimizer}


def test_an_attribute_with_the_name_of_a_global_variable_is_none():
    def learn(batch):
        return batch.SOMETHING

    assert parts_of(learn) == {}


class Learner:
    """An object that is called."""

    def __init__(self, update):
        self.update, self.myself = update, self

    def __call__(self, batch):
        return self.update(batch)


def test_environments_and_collectors_are_not_parts():
    pipeline = clipped()
    env, policy = pipeline.collector.env, pipeline.policy

    def learn(batch):
        return pipeline.collector, env, pipeline.learn(batch)

    assert set(parts_of(learn)) == set()

    def learn_from(batch, learn=None):
        return policy, env

    assert parts_of(learn_from) == {"policy": policy}
    pipeline.close()


def test_names():
    weight = nn.Parameter(torch.ones(()))
    optimizer = torch.optim.Adam([weight])
    schedules = [torch.optim.lr_scheduler.StepLR(optimizer, 3), torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)]
    assert [name_of(each) for each in (optimizer, *schedules)] == ["optimizer", "schedule", "schedule"]
    assert name_of(TargetUpdate(nn.Linear(1, 1), nn.Linear(1, 1))) == "target"
    assert [name_of(type(name, (), {})()) for name in ("RNDNetwork", "my_Part", "_", "ÄB2")] == [
        "rnd_network",
        "my_part",
        "part",
        "b2",
    ]
    assert [name_of(object.__new__(kind)) for kind in (SoftUpdate, HardUpdate)] == ["target", "target"]
    one, two, three = object(), object(), object()
    assert together({"a": one, "b": two}, {"a": three, "c": one}) == {"a": one, "b": two, "a_2": three}


def test_names_that_the_loop_takes_are_not_given():
    line, loss = nn.Linear(1, 1), Loss(nn.Linear(1, 1))

    def learn(batch):
        return line, loss

    assert list(completed({}, nn.Linear(1, 1), learn, ["line", "loss"])) == ["policy", "line_2", "loss_2"]
