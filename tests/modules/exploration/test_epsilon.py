"""Epsilon-greedy: epsilon at 0, half and 1, and what it counts."""

import itertools

import pytest
import torch
from tensordict import TensorDict
from torchrl.data import Bounded, Categorical
from torchrl.envs.utils import ExplorationType, set_exploration_type

from rlpipe.modules import EpsilonGreedy, Harmonic, Linear

SPEC = Categorical(4, (10_000,))


def explore(epsilon, kind=ExplorationType.RANDOM):
    explorer = EpsilonGreedy(SPEC, Linear(epsilon, epsilon, 1), torch.Generator().manual_seed(0))
    with set_exploration_type(kind):
        return explorer(TensorDict({"action": torch.full((10_000,), 2)}, [10_000]))["action"]


def test_epsilon_zero_changes_nothing():
    assert (explore(0.0) == 2).all()


def test_epsilon_half_replaces_half_uniformly():
    frequencies = torch.bincount(explore(0.5), minlength=4) / 10_000
    # five standard errors at most
    torch.testing.assert_close(frequencies, torch.tensor([0.125, 0.125, 0.625, 0.125]), rtol=0, atol=0.025)


def test_epsilon_one_is_uniform():
    frequencies = torch.bincount(explore(1.0), minlength=4) / 10_000
    torch.testing.assert_close(frequencies, torch.full((4,), 0.25), rtol=0, atol=0.022)


def test_deterministic_exploration_is_greedy():
    assert (explore(1.0, ExplorationType.DETERMINISTIC) == 2).all()


def test_masked_exploration_is_uniform_among_the_allowed_actions():
    draws = 4_000
    masks = torch.tensor(list(itertools.product([False, True], repeat=4)))
    allowed = masks | ~masks.any(-1, keepdim=True)
    explorer = EpsilonGreedy(SPEC, Linear(1.0, 1.0, 1), torch.Generator().manual_seed(0), masked=True)
    assert explorer.in_keys == ["action", "action_mask"]
    batch = TensorDict(
        {"action": torch.zeros(16, draws, dtype=torch.int64), "action_mask": masks.unsqueeze(1).expand(16, draws, 4)},
        [16, draws],
    )
    with set_exploration_type(ExplorationType.RANDOM):
        action = explorer(batch)["action"]
    counts = torch.nn.functional.one_hot(action, 4).sum(1)
    assert (counts[~allowed] == 0).all()
    # five standard errors at most
    torch.testing.assert_close(counts / draws, allowed / allowed.sum(-1, keepdim=True), rtol=0, atol=0.04)


def test_masked_exploration_keeps_what_it_does_not_replace():
    mask = torch.tensor([[True, False, True, False]]).expand(10_000, 4)
    explorer = EpsilonGreedy(SPEC, Linear(0.5, 0.5, 1), torch.Generator().manual_seed(0), masked=True)
    batch = TensorDict({"action": torch.full((10_000,), 2), "action_mask": mask}, [10_000])
    with set_exploration_type(ExplorationType.RANDOM):
        frequencies = torch.bincount(explorer(batch)["action"], minlength=4) / 10_000
    torch.testing.assert_close(frequencies, torch.tensor([0.25, 0.0, 0.75, 0.0]), rtol=0, atol=0.025)


def collected(done):
    flags = torch.tensor(done).unsqueeze(-1)
    return TensorDict({"next": TensorDict({"done": flags}, flags.shape[:-1])}, flags.shape[:-1])


def test_advance_counts_frames_and_finished_episodes():
    explorer = EpsilonGreedy(SPEC, Harmonic(1.0))
    explorer.advance(collected([[False, True, False], [True, False, True]]))
    assert (explorer.frames, explorer.episodes) == (6, 3)
    assert explorer.epsilon == 0.25


def test_counters_are_the_state():
    explorer, other = EpsilonGreedy(SPEC, Harmonic(1.0)), EpsilonGreedy(SPEC, Harmonic(1.0))
    explorer.advance(collected([[False, True]]))
    other.load_state_dict(explorer.state_dict())
    assert (other.frames, other.episodes) == (2, 1)


def test_refuses_a_box():
    with pytest.raises(ValueError, match="EpsilonGreedy needs Discrete actions"):
        EpsilonGreedy(Bounded(0.0, 1.0, (3, 1)), Harmonic(1.0))


def test_epsilon_may_be_a_number():
    assert EpsilonGreedy(SPEC, 0.25).epsilon == 0.25
