"""RandomWarmup: where its actions lie, for how long, and what it keeps."""

import pickle

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictSequential
from torchrl.data import Bounded, Categorical, Unbounded
from torchrl.envs.utils import ExplorationType, set_exploration_type

from rlpipe.modules import MLP, DeterministicActor, RandomWarmup

LOW, HIGH = torch.tensor([-2.0, 0.0]), torch.tensor([2.0, 10.0])
SPEC = Bounded(LOW.expand(4096, 2), HIGH.expand(4096, 2))


def batch_of(frames):
    done = torch.zeros(frames, 1, dtype=torch.bool)
    return TensorDict({"next": TensorDict({"done": done}, [frames])}, [frames])


def acted(warmup, kind=ExplorationType.RANDOM):
    with set_exploration_type(kind):
        return warmup.compute(torch.ones(4096, 2))[0]


def test_actions_are_uniform_between_the_bounds_until_the_frames_are_over():
    warmup = RandomWarmup(SPEC, 100, torch.Generator().manual_seed(0))
    action = acted(warmup)
    assert (action >= LOW).all()
    assert (action <= HIGH).all()
    torch.testing.assert_close(action.mean(0), torch.tensor([0.0, 5.0]), atol=0.2, rtol=0)
    torch.testing.assert_close(action.std(0), (HIGH - LOW) / 12**0.5, atol=0.1, rtol=0)
    warmup.advance(batch_of(99))
    assert not torch.equal(acted(warmup), torch.ones(4096, 2))
    warmup.advance(batch_of(1))
    assert torch.equal(acted(warmup), torch.ones(4096, 2))


def test_a_greedy_policy_is_left_alone():
    assert torch.equal(acted(RandomWarmup(SPEC, 100), ExplorationType.DETERMINISTIC), torch.ones(4096, 2))


def test_without_two_bounds_actions_are_normal_and_clipped():
    low, high = torch.full((4096, 2), -torch.inf), torch.full((4096, 2), torch.inf)
    low[:, 0] = 0.0
    action = acted(RandomWarmup(Bounded(low, high), 1, torch.Generator().manual_seed(0)))
    assert action[:, 0].min() == 0.0
    assert action[:, 1].std().item() == pytest.approx(1.0, abs=0.1)
    assert acted(RandomWarmup(Unbounded((4096, 2)), 1)).isfinite().all()


def test_its_state_and_its_generator_give_the_same_actions_again():
    one, other = (RandomWarmup(SPEC, 100, torch.Generator().manual_seed(3)) for _ in range(2))
    one.advance(batch_of(60))
    other.set_extra_state(one.get_extra_state())
    assert other.frames == 60
    assert torch.equal(acted(one), acted(other))


def test_it_stands_behind_an_actor_and_can_be_sent_to_another_process():
    actor = DeterministicActor(MLP(3, 2, (4,)), SPEC)
    policy = pickle.loads(pickle.dumps(TensorDictSequential(actor, RandomWarmup(SPEC, 1))))
    with set_exploration_type(ExplorationType.RANDOM):
        action = policy(TensorDict(observation=torch.zeros(4096, 3), batch_size=[4096]))["action"]
    assert action.std() > 1.0


def test_other_actions_are_refused():
    with pytest.raises(ValueError, match="RandomWarmup needs Box actions of floats.* there is EpsilonGreedy"):
        RandomWarmup(Categorical(3, (4,)), 10)
