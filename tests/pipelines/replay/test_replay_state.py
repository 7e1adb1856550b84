"""What buffers keep of nested transitions, and that a state of others is refused by name."""

import copy

import matching  # noqa: F401 - registers the environments
import pytest
import torch
from torchrl.data import LazyTensorStorage, ReplayBuffer

from rlpipe.pipelines.checkpoints.state_checks import Kind
from rlpipe.pipelines.envs import EnvConfig, make_env
from rlpipe.pipelines.replay.episodes import EpisodeBuffer
from rlpipe.pipelines.replay.state import ReplayState, transition_bytes, transition_kinds

OBSERVED = ["a", ("robot", "key"), ("robot", "mode")]
KEYS = [*OBSERVED, "action", *(("next", *((key,) if isinstance(key, str) else key)) for key in OBSERVED)]
KEYS += [("next", "reward"), ("next", "done")]


def make(acted):
    return make_env(EnvConfig(f"tests/Match-dict-{acted}-v0", num_envs=3), seed=0)


def test_the_kinds_of_nested_entries():
    kinds = transition_kinds(make("dict"), KEYS)
    assert kinds[("next", "robot", "key")] == kinds[("robot", "key")] == Kind(torch.Size([1]), torch.int8, 2)
    assert kinds[("robot", "mode")] == Kind(torch.Size([]), torch.int64, 2)
    assert kinds["a"] == Kind(torch.Size([]), torch.float32)
    actions = {key: kind for key, kind in kinds.items() if key[0] == "action"}
    assert list(actions) == [("action", "arm", "force"), ("action", "arm", "grip"), ("action", "move")]
    assert transition_kinds(make("dict"), list(actions)) == actions
    assert transition_bytes(make("dict"), ["action", "a"]) == 4 + 1 + 8 + 4
    with pytest.raises(KeyError, match=r"has no entry \('robot', 'x'\); it has"):
        transition_kinds(make("dict"), [("next", "robot", "x")])


def rollout(acted):
    env = make(acted)
    return env.rollout(12, break_when_any_done=False), transition_kinds(env, KEYS)


def buffer():
    return ReplayBuffer(storage=LazyTensorStorage(50), batch_size=4)


def test_a_replay_of_nested_transitions_goes_through_a_state(identical):
    batch, kinds = rollout("dict")
    full, empty = ReplayState(buffer(), kinds), ReplayState(buffer(), kinds)
    full.buffer.extend(batch.select(*KEYS).reshape(-1))
    empty.load_state_dict(full.state_dict())
    identical(empty.buffer.storage[:], full.buffer.storage[:])


BROKEN = {
    "a choice": ("action", 2, r"\('action',\) that is not in the range from 0 to \[1, 2, 1\]"),
    "a nested entry": (("robot", "mode"), 7, r"\('robot', 'mode'\) that is not in the range from 0 to 1"),
    "a bit": (("next", "robot", "key"), -1, r"\('next', 'robot', 'key'\) that is not in the range from 0 to 1"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_numbers_that_an_entry_cannot_have_are_refused(name):
    key, value, message = BROKEN[name]
    batch, kinds = rollout("multi_discrete")
    full = ReplayState(buffer(), kinds)
    full.buffer.extend(batch.select(*KEYS).reshape(-1))
    state = copy.deepcopy(full.state_dict())
    entry = state["held"]
    for step in (key,) if isinstance(key, str) else key:
        entry = entry[step]
    entry[0] = value
    with pytest.raises(ValueError, match=message):
        full.load_state_dict(state)


def test_a_nested_entry_that_is_missing_is_refused():
    batch, kinds = rollout("dict")
    full = ReplayState(buffer(), kinds)
    full.buffer.extend(batch.select(*KEYS).reshape(-1))
    state = copy.deepcopy(full.state_dict())
    del state["held"]["action"]["arm"]["force"]
    with pytest.raises(ValueError, match=r"held has the entries .* expected .*'force'"):
        full.load_state_dict(state)


def test_unfinished_episodes_of_nested_steps_go_through_a_state(identical):
    batch, _ = rollout("dict")
    env = make("dict")
    kept = [("robot", "mode"), "action"]
    one, other = (EpisodeBuffer(kept, kinds=lambda keys: transition_kinds(env, keys), num_envs=3) for _ in range(2))
    first, second = batch[:, :7], batch[:, 7:]
    assert one.extend(first) == []
    # as a checkpoint gives it back
    other.load_state_dict({"unfinished": [steps.to_dict() for steps in one.state_dict()["unfinished"]]})
    finished, expected = other.extend(second), one.extend(second)
    assert len(expected) == 3
    for actual, wanted in zip(finished, expected, strict=True):
        identical(actual, wanted)
        assert ("action", "arm", "force") in actual.keys(True, True)
