"""What an `env_id` denotes if it is no id: a class, a callable, a spec or an instance.

Worker processes import this module, so it must not import PyTorch.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec, load_env_creator

from rlpipe.errors import ConfigError, first_line, shown
from rlpipe.pipelines.envs.arguments.names import Arguments, Named, as_arguments, name_of
from rlpipe.pipelines.envs.arguments.signature import check_arguments
from rlpipe.pipelines.envs.backends.atari_game import FIXED, is_game
from rlpipe.user_modules import UNNAMED

Env = gym.Env[Any, Any]
_EXPECTED = (
    "expected an id of Gymnasium, module:name, or the class, a spec or an instance of an environment, or a function "
    "that makes one"
)
_VECTOR = "is a vector environment; expected a single one, of which rlpipe makes num_envs"


def name_env(env_id: Any, kwargs: Arguments, what: str = "env_id") -> tuple[str, Arguments]:
    """The name of what a config is given as its environment, and its arguments.

    An id stays as it is, and anything else becomes a `Named`. A `functools.partial` gives its arguments to `kwargs`.

    Raises:
        ConfigError: it is no environment, and makes none; or an instance that cannot be copied, or is given arguments.
    """
    while isinstance(env_id, functools.partial) and not env_id.args:
        kwargs = as_arguments({**env_id.keywords, **kwargs}, f"{what}, in the arguments of its partial,")
        env_id = env_id.func
    if isinstance(env_id, str):
        return env_id, kwargs
    if isinstance(env_id, EnvSpec):
        known = gym.registry.get(env_id.id) == env_id
        return (env_id.id if known else Named(f"{UNNAMED}EnvSpec {env_id.id}>", env_id)), kwargs
    if isinstance(env_id, gym.Env):
        if kwargs:
            raise ConfigError(
                f"env_kwargs are {', '.join(kwargs)}, and {what} is made already: a {_kind(env_id)}; give the function "
                "that makes it"
            )
        return Named(f"{UNNAMED}{_kind(env_id)} instance>", _original(env_id, what)), kwargs
    if is_torchrl(env_id) and not isinstance(env_id, type):
        if kwargs:
            raise ConfigError(
                f"env_kwargs are {', '.join(kwargs)}, and {what} is made already: a {_class_name(env_id)}"
            )
        return Named(f"{UNNAMED}{_class_name(env_id)} instance>", env_id), kwargs
    _check_kind(env_id, what)
    return Named(name_of(env_id), env_id), kwargs


def is_torchrl(given: Any) -> bool:
    """Whether it is an `EnvBase` of TorchRL's, or a class of these."""
    kind = given if isinstance(given, type) else type(given)
    return any(each.__name__ == "EnvBase" and each.__module__.startswith("torchrl.") for each in kind.__mro__)


class MadeForTorchRLError(ConfigError):
    """A function made a TorchRL environment, and something asked for one of Gymnasium.

    Args:
        env: it.
        make: the function.
    """

    def __init__(self, name: str, env: Any, make: Callable[..., Any]) -> None:
        super().__init__(f"env-id is {name!r}, which made a TorchRL environment; that has only backend 'auto'")
        self.env, self.make = env, make

    def __reduce__(self) -> Any:
        return ConfigError, (str(self),)


def spec_of(given: Any, name: str) -> EnvSpec:
    """A spec that makes what `env_id` denotes, by a class, a callable, a spec or an `Original`."""
    if isinstance(given, EnvSpec):
        return given
    _check_kind(given, f"env-id {name!r}")
    # a name of letters, because Gymnasium takes ids apart
    plain = "".join(each for each in name if each.isalnum() or each in "_.:")
    is_class = isinstance(given, type)
    creator: Any = given if is_class or is_torchrl(given) else Maker(given, name)
    return EnvSpec(plain if isinstance(creator, Maker) else _class_name(given), entry_point=creator)


def with_arguments(spec: EnvSpec, kwargs: Arguments, name: str) -> EnvSpec:
    """The spec with more arguments, which are checked against what the environment takes.

    Raises:
        ConfigError: it does not take them, or needs others.
    """
    point = spec.entry_point
    if not kwargs and isinstance(point, str):
        return spec
    if is_game(spec) and (fixed := sorted(kwargs.keys() & FIXED)):
        raise ConfigError(
            f"env-kwargs: {name} takes no argument {fixed[0]!r} here: rlpipe preprocesses games itself, four frames an "
            "action and four grey images an observation; --action-repeat and --frame-stack add to that"
        )
    made_by = load_env_creator(point) if isinstance(point, str) else point
    made_by = made_by.make if isinstance(made_by, Maker) else made_by
    if callable(made_by):
        check_arguments(made_by, {**spec.kwargs, **kwargs}, f"env-kwargs: {name}")
    spec = copy.copy(spec)
    spec.kwargs = {**spec.kwargs, **kwargs.given()}
    return spec


class Original:
    """An environment that each call copies; itself a copy of the user's, who may go on using it."""

    def __init__(self, env: Env) -> None:
        self.env = env

    def __call__(self) -> Env:
        return copy.deepcopy(self.env)

    def __deepcopy__(self, memo: dict[int, Any]) -> Original:
        return self


class Maker:
    """A function that makes environments, as Gymnasium's entry point; what it returns is checked.

    Args:
        make: called for each environment; with a `render_mode` if it takes one.
        name: in messages.

    Raises:
        ConfigError: from a call, if no environment comes back, or one that does not render as asked.
    """

    def __init__(self, make: Callable[..., Any], name: str) -> None:
        self.make, self._name = make, name
        # tells where the environment is from
        self.__module__ = str(getattr(make, "__module__", "") or "")

    def __call__(self, render_mode: str | None = None, **kwargs: Any) -> Env:
        if render_mode is not None and _takes_render_mode(self.make):
            kwargs["render_mode"] = render_mode
        made = self.make(**kwargs)
        if isinstance(made, gym.vector.VectorEnv):
            raise ConfigError(f"env-id is {self._name!r}, and what it makes {_VECTOR}")
        if is_torchrl(made):
            raise MadeForTorchRLError(self._name, made, self.make)
        if not isinstance(made, gym.Env):
            kind = (
                "None, as a function without a return does"
                if made is None
                else f"{shown(made)}, of type {type(made).__name__}"
            )
            raise ConfigError(f"env-id is {self._name!r}, which made {kind}; expected a gymnasium.Env")
        if render_mode is not None and made.render_mode != render_mode:
            made.close()
            raise ConfigError(
                f"env-id is {self._name!r}, whose render_mode is {made.render_mode!r}, and {render_mode!r} is needed: "
                "give a function with an argument render_mode, or an instance that was made with this one"
            )
        return made

    def __deepcopy__(self, memo: dict[int, Any]) -> Maker:
        return self


def _check_kind(given: Any, what: str) -> None:
    """Refuse what makes no single environment, as far as can be seen before it is called."""
    if isinstance(given, gym.vector.VectorEnv) or (isinstance(given, type) and issubclass(given, gym.vector.VectorEnv)):
        raise ConfigError(f"{what} is {shown(given)}, which {_VECTOR}")
    if is_torchrl(given):
        return
    if not callable(given) or (isinstance(given, type) and not issubclass(given, gym.Env)):
        raise ConfigError(f"{what} is {shown(given)}; {_EXPECTED}")


def _original(env: Env, what: str) -> Any:
    """What makes copies of an instance: copies, or its spec if it was made from one and cannot be copied."""
    try:
        return Original(copy.deepcopy(env))
    except Exception as error:  # an environment's own code copies it
        spec = _spec_of_instance(env)
        if spec is not None:
            return spec
        raise ConfigError(
            f"{what} is an instance of {_kind(env)} that cannot be copied for each environment ({first_line(error)}); "
            "give the function that makes it"
        ) from error


def _spec_of_instance(env: Env) -> EnvSpec | None:
    try:
        spec = env.spec
    except Exception:  # of a wrapper that cannot be made again
        return None
    return None if spec is None or any(each.kwargs is None for each in spec.additional_wrappers) else spec


def _takes_render_mode(make: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(make).parameters
    except (TypeError, ValueError):
        return False
    return "render_mode" in parameters or any(each.kind is each.VAR_KEYWORD for each in parameters.values())


def _class_name(given: Any) -> str:
    return given.__name__ if isinstance(given, type) else type(given).__name__


def _kind(env: Env) -> str:
    return type(env.unwrapped).__name__
