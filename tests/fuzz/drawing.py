"""Values for the fields of a Config, drawn from its own type hints and bounds: a new field is fuzzed as it comes."""

from __future__ import annotations

import contextlib
import functools
import math
import signal
import types
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import numpy as np
import torch
from hypothesis import strategies as st

from rlpipe.pipelines.algorithms.recipes import RECIPES, config_class
from rlpipe.pipelines.config.fields import bounds_of

ALGORITHMS = sorted({recipe.algorithm for recipe in RECIPES.values()})
ENVIRONMENTS = [
    "CartPole-v1",
    "Pendulum-v1",
    "FrozenLake-v1",
    "CliffWalking-v1",
    "rlpipe/Maze-v0",
    "rlpipe/CartPoleInstances-v0",
]
NO_ENVIRONMENTS = [
    "",
    "CartPole",
    "nope-v0",
    "a:b",
    "ALE/Nothing-v5",
    "Blackjack-v1",
    "größe-v1",
    "迷路",
    "x" * 200,
    "\n-v0",
]
WRAPPED = {
    "env_kwargs": [{}, {"no_such": 1}],
    "eval_env_kwargs": [None, {}],
    "wrapper": [(), ("gymnasium.wrappers:OrderEnforcing",), ('gymnasium.wrappers:ClipReward {"max_reward": 1}',)],
    "frame_stack": [1, 2],
    "action_repeat": [1, 3],
    "log_info": [(), ("speed",), ("speed", "x.y:last")],
    "schedule": [(), ("gamma=linear:0.5:0.9",), ("gamma=cosine:1:0:32",)],
}
"""Values of fields that hold more than numbers; what an environment is put into is not slow."""
SIZES = {"num_envs": 2, "rollout_steps": 8, "max_episode_steps": 8, "total_frames": 64, "eval_episodes": 1}
NETWORK = {"hidden": (8,), "minibatch_size": 8, "epochs": 2, "updates": 2, "buffer_size": 64, "warmup_frames": 8}
BINS = {"env_id": "CartPole-v1", "bins": 3, "bin_low": (-1.0,) * 4, "bin_high": (1.0,) * 4}


class Multiline:
    """Something whose `repr` has several lines."""

    def __repr__(self) -> str:
        return "a\nb\nc"


# the huge ones are more than a float holds, and more than Python writes out
HUGE = [2**31, 2**63 - 1, 2**63, 10**19, 10**39, 10**400, 10**5000]
TEXTS = ["", " ", "1", "fast", "None", "true", "nan", "größe", "迷路", "two\nlines", "\x00", "\ud800", "%s {0} {x}"]
NUMBERS = [0, 1, -1, 2.5, -0.0, 5e-324, 1e-300, 1e39, 1.7e308, math.nan, math.inf, -math.inf, *HUGE, -(10**400)]
OBJECTS = [None, True, False, b"x", 1j, int, np.float64(0.5), np.int64(3), Multiline(), Ellipsis]
HOLDERS = [(), (1,), (None,), ("a",), ((1,),), (True,), (math.nan,), (10**400,), [], [1], [[1]], {}, {"a": 1}, {1, 2}]
JUNK = [*TEXTS, *NUMBERS, *OBJECTS, *HOLDERS, np.ones(3), torch.ones(2), list(range(100)), tuple(range(1000))]


class Field(NamedTuple):
    """What a Config says of one of its fields."""

    name: str
    hint: Any
    bounds: Any


@functools.cache
def fields_of(algorithm: str) -> dict[str, Field]:
    """All fields of an algorithm's Config."""
    cls = config_class(algorithm)
    hints = get_type_hints(cls)
    return {name: Field(name, hints[name], bounds_of(cls, name)) for name in cls.__dataclass_fields__}


def base_of(algorithm: str) -> dict[str, Any]:
    """Settings with which a run is over in a moment."""
    return {name: value for name, value in (SIZES | NETWORK).items() if name in fields_of(algorithm)}


def alternatives(hint: Any) -> tuple[Any, ...]:
    """The members of a union, or the one type."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def fits(value: Any, field: Field) -> bool:
    """Whether a value has its field's type and bounds, as the field alone can tell."""
    if field.name in ("env_kwargs", "eval_env_kwargs"):
        is_dict = (
            isinstance(value, dict) and all(isinstance(name, str) for name in value) and "render_mode" not in value
        )
        return is_dict or (value is None and field.name == "eval_env_kwargs")
    if field.name == "log_info":
        return isinstance(value, tuple) and all(isinstance(each, str) for each in value)
    if field.name == "schedule":
        return isinstance(value, tuple) and value in WRAPPED["schedule"]
    if field.name == "wrapper":
        return isinstance(value, (tuple, list)) and all(each in sum(WRAPPED["wrapper"], ()) for each in value)
    return any(_fits(value, hint, field.bounds) for hint in alternatives(field.hint))


def _fits(value: Any, hint: Any, bounds: Any) -> bool:
    if get_origin(hint) is Literal:
        return isinstance(value, str) and value in get_args(hint)
    if get_origin(hint) is tuple:
        most = bounds["at_most_numbers"]
        if not isinstance(value, tuple) or not value or len(value) > most:
            return False
        return all(_fits(item, get_args(hint)[0], bounds) for item in value)
    if hint not in (int, float):
        return isinstance(value, hint)
    kinds = (int, float) if hint is float else int
    return isinstance(value, kinds) and not isinstance(value, bool) and _is_between(value, bounds)


def _is_between(value: float, bounds: Any) -> bool:
    low, above, high = bounds["at_least"], bounds["above"], bounds["at_most"]
    # nan is beyond every bound
    return value <= high and (low is None or value >= low) and (above is None or value > above)


def good(field: Field) -> st.SearchStrategy[Any]:
    """Values that the field allows, edges among them."""
    if field.name in ("env_id", "eval_env_id"):
        optional = [None] if field.name == "eval_env_id" else []
        return st.sampled_from([*optional, *ENVIRONMENTS])
    if field.name in WRAPPED:
        return st.sampled_from(WRAPPED[field.name])
    return st.one_of([_good(hint, field.bounds) for hint in alternatives(field.hint)])


def _good(hint: Any, bounds: Any) -> st.SearchStrategy[Any]:
    if hint is types.NoneType:
        return st.none()
    if hint is bool:
        return st.booleans()
    if hint is str:
        return st.sampled_from(TEXTS)
    if get_origin(hint) is Literal:
        return st.sampled_from(get_args(hint))
    if get_origin(hint) is tuple:
        item = _good(get_args(hint)[0], bounds)
        return st.lists(item, min_size=1, max_size=6).map(tuple)
    return _good_number(hint, bounds)


def _good_number(hint: Any, bounds: Any) -> st.SearchStrategy[Any]:
    high = bounds["at_most"]
    low = bounds["at_least"] if bounds["at_least"] is not None else bounds["above"]
    if hint is int:
        few = st.integers(low, min(high, low + 12))
        return st.one_of(few, few, few, st.sampled_from(sorted({low, high - 1, high})))
    usual = st.floats(max(low, 1e-6) if low >= 0 else -10.0, min(high, 10.0))
    strict = bounds["above"] is not None
    edges = st.sampled_from([math.nextafter(low, math.inf) if strict else low, high, math.nextafter(high, 0.0)])
    return st.one_of(usual, usual, edges, st.floats(low, high, exclude_min=strict), st.just(int(min(high, 10**38))))


def bad(field: Field) -> st.SearchStrategy[Any]:
    """Values beyond the edges, and of all kinds of types; a few of them may be allowed nevertheless."""
    choices = [st.sampled_from(JUNK), st.integers(), st.floats(), st.text(max_size=8)]
    if field.name in ("env_id", "eval_env_id"):
        choices.append(st.sampled_from(NO_ENVIRONMENTS))
    edges = edges_of(field)
    if edges:
        beyond = st.sampled_from(edges)
        choices += [beyond, st.lists(beyond, max_size=3).map(tuple)]
    return st.one_of(choices)


def edges_of(field: Field) -> list[Any]:
    """The bounds of a field, and what is just beyond them."""
    return [
        edge + step
        for edge in (field.bounds.get(key) for key in ("at_least", "above", "at_most"))
        if edge is not None
        for step in ((-1, 0, 1) if isinstance(edge, int) else (-abs(edge) * 1e-9, 0.0, abs(edge) * 1e-9))
    ]


@st.composite
def settings_of(draw: st.DrawFn, algorithm: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings for a Config: small ones that work, and those put in their place."""
    fields = fields_of(algorithm)
    base = base_of(algorithm)
    base["env_id"] = draw(st.sampled_from(ENVIRONMENTS))
    if "bins" in fields and draw(st.booleans()):
        base |= BINS
    names = draw(st.lists(st.sampled_from(sorted(fields)), max_size=5, unique=True))
    # mostly good, or hardly a case would come to train
    broken = draw(st.integers(0, 1)) == 0
    changed = {name: draw(good(fields[name])) for name in names}
    if broken and names:
        changed[names[0]] = draw(bad(fields[names[0]]))
    return base, changed


class HangError(BaseException):
    """A case took too long; no `Exception`, so that nothing takes it for one of its own."""


@contextlib.contextmanager
def limited(case: Any, seconds: int = 60) -> Iterator[None]:
    """Fail what hangs, where the system has alarms."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def stop(*_: Any) -> None:
        raise HangError(f"not done after {seconds} s: {case}")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
