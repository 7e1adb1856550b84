"""Joint actions of several choices, as DQN values them: their numbers, masks, and what explores among them."""

import itertools

import pytest
import torch
from spaces import box, every_action, multi_binary, multi_discrete
from tensordict import TensorDict
from torch import nn
from torchrl.envs.utils import ExplorationType, set_exploration_type

from rlpipe.modules import EpsilonGreedy, JointChoices, Linear, QActor

DIALS = ((2, 3), (1, 4))


@pytest.mark.parametrize("spec", [multi_discrete(5, DIALS), multi_discrete(5), multi_binary(5, (2, 3))])
def test_every_joint_action_has_a_number(spec):
    joint = JointChoices(spec)
    every = joint.at(torch.arange(joint.actions))
    assert (every.shape, every.dtype) == ((joint.actions, *spec.shape[1:]), spec.dtype)
    assert len(every.flatten(1).unique(dim=0)) == joint.actions
    assert torch.equal(joint.index(every), torch.arange(joint.actions))
    assert spec.is_in(every[:5])
    two = torch.arange(joint.actions).expand(3, joint.actions)
    assert torch.equal(joint.index(joint.at(two)), two)


def test_the_last_choice_is_the_fastest():
    assert JointChoices(multi_discrete(1, (2, 3))).at(torch.arange(4)).tolist() == [[0, 0], [0, 1], [0, 2], [1, 0]]


def test_a_mask_allows_the_joint_actions_of_allowed_choices():
    joint = JointChoices(multi_discrete(1, (2, 3)))
    masks = torch.tensor(list(itertools.product([False, True], repeat=5)))
    for mask, found in zip(masks.tolist(), joint.allowed(masks).tolist(), strict=True):
        first, second = (part if any(part) else [True] * len(part) for part in (mask[:2], mask[2:]))
        assert found == [a and b for a, b in itertools.product(first, second)]


def q_actor(spec=None, **options):
    return QActor(nn.Identity(), multi_discrete(64, (2, 3)) if spec is None else spec, **options)


def batch(**entries):
    scores = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    return TensorDict({"observation": scores, **entries}, [64])


def test_the_best_joint_action_is_taken():
    out = q_actor()(batch())
    best = out["action_value"].argmax(-1)
    assert torch.equal(out["action"], torch.stack([best // 3, best % 3], -1))
    assert torch.equal(out["chosen_action_value"], out["action_value"].amax(-1, keepdim=True))


def test_the_best_of_the_allowed_joint_actions_is_taken():
    mask = torch.tensor([True, False, False, True, True]).expand(64, 5)
    out = q_actor(masked=True)(batch(action_mask=mask))
    assert (out["action"][:, 0] == 0).all()
    assert set(out["action"][:, 1].tolist()) == {1, 2}
    assert torch.equal(out["action_value"].isfinite(), torch.tensor([0, 1, 1, 0, 0, 0]).bool().expand(64, 6))


@pytest.mark.parametrize("spec", [multi_discrete(2_000, (2, 3)), multi_binary(2_000, (2, 2))])
@pytest.mark.parametrize("epsilon", [0.0, 0.5, 1.0])
def test_exploration_draws_joint_actions(spec, epsilon):
    explorer = EpsilonGreedy(spec, Linear(epsilon, epsilon, 1), torch.Generator().manual_seed(0))
    joint, still = JointChoices(spec), torch.zeros(spec.shape, dtype=spec.dtype)
    with set_exploration_type(ExplorationType.RANDOM):
        action = explorer(TensorDict({"action": still}, [2_000]))["action"]
    assert action.dtype == spec.dtype
    share = torch.bincount(joint.index(action), minlength=joint.actions) / 2_000
    expected = torch.full((joint.actions,), epsilon / joint.actions)
    expected[0] += 1 - epsilon
    torch.testing.assert_close(share, expected, rtol=0, atol=0.05)


def test_exploration_draws_allowed_choices():
    spec = multi_discrete(64, (2, 3))
    explorer = EpsilonGreedy(spec, Linear(1.0, 1.0, 1), torch.Generator().manual_seed(0), masked=True)
    mask = torch.tensor([False, True, True, False, True]).expand(64, 5)
    with set_exploration_type(ExplorationType.RANDOM):
        action = explorer(TensorDict({"action": torch.zeros(64, 2).long(), "action_mask": mask}, [64]))["action"]
    assert (action[:, 0] == 1).all()
    assert set(action[:, 1].tolist()) == {0, 2}


@pytest.mark.parametrize("make", [q_actor, lambda spec, **options: EpsilonGreedy(spec, Linear(1, 1, 1), **options)])
def test_what_is_refused(make):
    assert JointChoices(multi_binary(2, (10,))).actions == 1024
    with pytest.raises(ValueError, match="the MultiBinary actions have 2,048 combinations; .* at most 1,024"):
        make(multi_binary(2, (11,)))
    with pytest.raises(ValueError, match="the MultiDiscrete actions have 10,000,000,000,000,000,000,000 comb"):
        make(multi_discrete(2, (10,) * 22))
    with pytest.raises(ValueError, match="an action_mask is for Discrete and MultiDiscrete .* is MultiBinary"):
        make(multi_binary(2), masked=True)
    for spec, name in ((box(2), "Bounded"), (every_action(2), "Composite")):
        with pytest.raises(ValueError, match=f"needs Discrete actions .* got {name}"):
            make(spec)
