"""Entries of spaces: how they are called, and the spaces, names and masks that are refused in one line."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Graph, MultiBinary, MultiDiscrete, OneOf, Sequence, Text, Tuple
from walking import register

from rlpipe.errors import ConfigError
from rlpipe.pipelines.envs import EnvConfig, make_env
from rlpipe.pipelines.envs.entries import WRITTEN, leaves_of, nest
from rlpipe.scripts.main import run

FLAT = Box(-1.0, 1.0, (2,), np.float32)
OTHERS = {
    "Text": Text(3),
    "Sequence": Sequence(Discrete(2)),
    "Graph": Graph(Discrete(2), None),
    "OneOf": OneOf([Discrete(2), FLAT]),
}


class Sampled(gym.Env):
    def __init__(self, observed=FLAT, acted=None):
        self.observation_space, self.action_space = observed, acted or Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}


def refused(match, **spaces):
    with pytest.raises(ConfigError, match=match) as caught:
        make_env(EnvConfig(register(lambda **_: Sampled(**spaces)), 2))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("kind", OTHERS)
def test_other_spaces_are_refused_with_a_wrapper_named(kind, nested):
    space = Dict(arm=Tuple([FLAT, OTHERS[kind]])) if nested else OTHERS[kind]
    where = "'s 'arm.1'" if nested else ""
    for what, key in (("observation", "observed"), ("action", "acted")):
        words = f"the {what}{where} space is {kind}.*in gymnasium.wrappers.Transform{what.capitalize()}"
        refused(words, **{key: space})


@pytest.mark.parametrize("name", [*WRITTEN, ""])
def test_entries_cannot_have_a_name_that_a_batch_has(name):
    words = "a name that rlpipe uses itself; rename it by a wrapper" if name else "rename it by a wrapper, to text"
    refused(f"the observation space has an entry called {name!r}.*{words}", observed=Dict({"a": FLAT, name: FLAT}))


def test_such_names_are_free_further_down_and_in_actions():
    spaces = {"observed": Dict(a=Dict(action=FLAT, next=FLAT)), "acted": Dict(reward=Discrete(2), done=FLAT)}
    env = make_env(EnvConfig(register(lambda **_: Sampled(**spaces)), 2), seed=0)
    assert {("a", "action"), ("a", "next")} <= set(env.reset().keys(True, True))
    assert set(env.action_keys) == {("action", "reward"), ("action", "done")}


@pytest.mark.parametrize(
    ("mask", "acted", "words"),
    [
        (MultiBinary(3), Discrete(2), "the action_mask has 3 numbers, expected 2: one an action"),
        (MultiBinary(6), MultiDiscrete([2, 3]), r"has 6 numbers, expected 5: one an action, or one mask for each of"),
        (Tuple([MultiBinary(3), MultiBinary(2)]), MultiDiscrete([2, 3]), r"has 3 and 2 numbers, expected 5"),
        (MultiBinary(2), FLAT, "an action_mask needs Discrete or MultiDiscrete actions"),
        (MultiBinary(2), MultiBinary(2), "an action_mask needs Discrete or MultiDiscrete actions"),
        (MultiBinary(4), Dict(a=Discrete(2), b=FLAT), "an action_mask needs Discrete or MultiDiscrete actions"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(mask, acted, words):
    refused(words, observed=Dict(observation=FLAT, action_mask=mask), acted=acted)


def test_a_mask_alone_is_nothing_to_observe():
    refused("has nothing but an action_mask", observed=Dict(action_mask=MultiBinary(2)))


def test_empty_spaces_are_refused():
    refused("the observation space is an empty Dict; expected entries", observed=Dict())
    refused("the action's 'a' space is an empty Tuple; expected entries", acted=Dict(a=Tuple([])))


def test_leaves_are_put_back_where_they_were():
    space = Dict(b=Tuple([Discrete(2), Dict(c=FLAT)]), a=MultiBinary(2))
    leaves, sample = leaves_of(space, "action"), space.sample()
    assert list(leaves) == [("action", "b", "0"), ("action", "b", "1", "c"), ("action", "a")]
    again = nest(leaves, {key: leaf.get(sample) for key, leaf in leaves.items()}, space)
    assert space.contains(again)
    np.testing.assert_equal(again, sample)


def test_the_command_refuses_in_a_line_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    env_id = register(lambda **_: Sampled(Dict(words=Text(3))))
    assert run(["train", "ppo", "--env-id", env_id]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "the observation's 'words' space is Text" in captured.err
    assert list(tmp_path.iterdir()) == []
