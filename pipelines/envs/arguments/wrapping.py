"""The wrappers that a config names, and those that its options add, put around an environment.

Worker processes import this module, so it must not import PyTorch.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import gymnasium as gym

from rlpipe.errors import ConfigError, shown
from rlpipe.pipelines.envs.arguments.names import Arguments, Named, as_arguments, find, name_of, read_json
from rlpipe.pipelines.envs.arguments.signature import check_arguments
from rlpipe.pipelines.envs.backends.pixel_observation import PixelObservation
from rlpipe.pipelines.envs.wrappers.action_repeat import ActionRepeat
from rlpipe.pipelines.envs.wrappers.frame_stack import FrameStack
from rlpipe.pipelines.envs.wrappers.remaining_time import RemainingTime
from rlpipe.user_modules import UNNAMED, reason_of

if TYPE_CHECKING:
    from rlpipe.pipelines.envs.config import EnvConfig

Env = gym.Env[Any, Any]
_EXAMPLE = """gymnasium.wrappers:FlattenObservation or 'gymnasium.wrappers:ClipReward {"max_reward": 1}'"""


def wrap(env: Env, config: EnvConfig, env_id: str) -> Env:
    """Put an environment into the wrappers of its config: its own in order, action repeat, pixels, stack, time.

    Args:
        env: with its time limit, which counts the environment's own steps.
        config: of the environment.
        env_id: its name in messages.

    Raises:
        ConfigError: a wrapper cannot be made, or an option does not fit the environment.
    """
    for name in config.wrappers:
        env = _wrapped(env, name)
    if config.action_repeat > 1:
        env = ActionRepeat(env, config.action_repeat)
    if config.from_pixels:
        env = PixelObservation(env)
    if config.frame_stack > 1:
        env = FrameStack(env, config.frame_stack)
    return RemainingTime(env, env_id) if config.time_aware else env


def wrapper_names(wrappers: Any, what: str) -> tuple[str, ...]:
    """The wrappers of a config as names: those given as objects as `Named`.

    Args:
        wrappers: each `module:Wrapper`, with a JSON object of arguments after it or not; a class or function; a
            `functools.partial` of one; or a pair of one and a dict of arguments.
        what: the option, for messages.

    Raises:
        ConfigError: one of them is something else.
    """
    if not isinstance(wrappers, (tuple, list)):
        raise ConfigError(f"{what} is {shown(wrappers)}; expected a tuple of wrappers, such as {_EXAMPLE}")
    return tuple(_named(each, what) for each in wrappers)


def unnamed_wrappers(wrappers: Iterable[str]) -> list[str]:
    """The wrappers that `config.json` cannot name, or whose arguments it cannot hold."""
    return [each for each in wrappers if each.startswith(UNNAMED) or _parts(each)[1].unwritten()]


def _named(wrapper: Any, what: str) -> str:
    if isinstance(wrapper, Named):
        return wrapper
    if isinstance(wrapper, str):
        return _checked(wrapper, what)
    make, given = wrapper, Arguments()
    if isinstance(wrapper, tuple) and len(wrapper) == 2:
        make, given = wrapper[0], as_arguments(wrapper[1], f"{what}, in its arguments,")
    elif isinstance(wrapper, functools.partial) and not wrapper.args:
        make, given = wrapper.func, as_arguments(wrapper.keywords, f"{what}, in its arguments,")
    if isinstance(make, str):
        return _checked(f"{make} {json.dumps(given)}" if given else make, what)
    if not callable(make) or isinstance(make, gym.Env):
        raise ConfigError(f"{what} has {shown(wrapper)}; expected wrappers, each such as {_EXAMPLE}, or its class")
    return Named(f"{name_of(make)} {json.dumps(given)}" if given else name_of(make), (make, given))


def _checked(text: str, what: str) -> str:
    name, _, rest = text.strip().partition(" ")
    module, _, attribute = name.rpartition(":")
    if not name.startswith(UNNAMED) and not (module and attribute):
        raise ConfigError(f"{what} has {shown(text)}; expected module:Wrapper, such as {_EXAMPLE}")
    if not rest.strip():
        return name
    return f"{name} {json.dumps(read_json(rest.strip(), f'what follows {what} {name}'))}"


def _parts(name: str) -> tuple[str, Arguments]:
    """A wrapper's name without its arguments, and these."""
    if isinstance(name, Named):
        return str(name).partition(" ")[0], name.given[1]
    bare, _, rest = name.partition(" ")
    return bare, Arguments(read_json(rest, f"wrapper {bare}") if rest else {})


def _wrapped(env: Env, name: str) -> Env:
    bare, given = _parts(name)
    what = f"wrapper is {bare!r}"
    make: Callable[..., Any] = name.given[0] if isinstance(name, Named) else find(bare, what)
    _check_kind(make, what)
    check_arguments(make, given, f"wrapper: {bare}", called_with=1)
    try:
        made = make(env, **given.given())
    except ConfigError:
        raise
    except Exception as error:  # its code may raise anything
        raise ConfigError(f"{what}, which cannot be put around {_kind(env)}: {reason_of(error)}") from error
    if not isinstance(made, gym.Env):
        raise ConfigError(f"{what}, which returned {shown(made)}; expected a wrapped environment, a gymnasium.Wrapper")
    return made


def _check_kind(make: Any, what: str) -> None:
    """Refuse what wraps no single environments."""
    if isinstance(make, type) and issubclass(make, gym.vector.VectorWrapper):
        raise ConfigError(f"{what}, which wraps vector environments; expected a gymnasium.Wrapper of a single one")
    if not callable(make) or (isinstance(make, type) and not issubclass(make, gym.Wrapper)):
        raise ConfigError(f"{what}, which is no gymnasium.Wrapper, and no function that returns one")


def _kind(env: Env) -> str:
    with contextlib.suppress(Exception):
        return f"{type(env.unwrapped).__name__} with observations {env.observation_space}"[:200]
    return type(env).__name__
