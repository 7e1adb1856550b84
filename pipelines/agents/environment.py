"""The environment of a run, found again by what its `config.json` says, or given again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gymnasium.spaces import Box

from rlpipe.errors import CheckpointError, ConfigError
from rlpipe.pipelines.envs import EnvConfig, VectorEnv, env_spec
from rlpipe.pipelines.envs.arguments.known import UnknownEnvError
from rlpipe.pipelines.envs.entries import Key, leaves_of, name_of
from rlpipe.pipelines.envs.make import make_env_of_any_size
from rlpipe.pipelines.envs.tensor.env import TensorEnv
from rlpipe.user_modules import UNNAMED, UNWRITTEN, module_of

_IDS, _ARGUMENTS = ("env_id", "eval_env_id"), ("env_kwargs", "eval_env_kwargs")


def check_known(config: Mapping[str, Any], path: Path) -> None:
    """Refuse the config of a run whose environment cannot be found in this process.

    Args:
        config: as `config.json` has it.
        path: of the run, for messages.

    Raises:
        CheckpointError: it is an object without a name; or it is not registered, and the message says how to name the
            module that registers it.
    """
    if missing := _missing(config):
        raise CheckpointError(
            f"run {path} has {missing[0]} in its environment, an object that config.json cannot hold; give it again "
            f"from Python, with rlpipe.load({str(path)!r}, env=...), or train with one that module:name names"
        )
    for env_id in filter(None, map(config.get, _IDS)):
        try:
            env_spec(env_id)
        except UnknownEnvError as error:
            raise CheckpointError(
                f"run {path} is one of {env_id!r}, which is not registered with Gymnasium; add --trust-module with the "
                "module that registers it"
            ) from error


def with_environment(config: Mapping[str, Any], env: Any) -> dict[str, Any]:
    """The config of a run with another environment of the same spaces.

    Args:
        config: as `config.json` has it.
        env: anything that `env_id` may be, or an `EnvConfig`, whose arguments and wrappers count as well.
    """
    given = env if isinstance(env, EnvConfig) else EnvConfig(env)
    changed: dict[str, Any] = {"env_id": given.env_id}
    if given is env:
        changed |= {"env_kwargs": given.kwargs, "wrapper": given.wrappers}
    else:
        kwargs = {name: value for name, value in (config.get("env_kwargs") or {}).items() if not _is_text(value)}
        changed["env_kwargs"] = {**given.kwargs, **kwargs}
    for name in ("eval_env_id", "eval_env_kwargs"):
        # what cannot be found is that of training
        if _missing({name: config.get(name)}):
            changed[name] = None
    return {**config, **changed}


def evaluated_in(env: Any, usual: EnvConfig, trained_in: VectorEnv | TensorEnv) -> EnvConfig:
    """Another environment than the run's own, to evaluate in.

    Args:
        env: anything that `env_id` may be, which then has the run's wrappers and limits, and no arguments; or an
            `EnvConfig`.
        usual: what evaluations use otherwise.
        trained_in: the environment that the policy was built for.

    Raises:
        ConfigError: it is not available, or its spaces are others.
    """
    config = env if isinstance(env, EnvConfig) else replace(usual, env_id=env, kwargs={})
    found = closed_env(config)
    for what, forms in (("observations", _observations), ("actions", _actions)):
        before, now = forms(trained_in), forms(found)
        if before != now:
            raise ConfigError(
                f"env is {config.env_id!r}, whose {what} are {_described(now)}, and the agent was trained with "
                f"{_described(before)}"
            )
    return config


def closed_env(config: EnvConfig) -> VectorEnv | TensorEnv:
    """One environment, closed; for its spaces and specs."""
    made = make_env_of_any_size(replace(config, num_envs=1, backend="auto"))
    made.close(raise_if_closed=False)
    base: VectorEnv | TensorEnv = made.base_env
    return base


def _observations(env: VectorEnv | TensorEnv) -> dict[Key, str]:
    return {key: _form(space) for key, space in env.spaces.items()}


def _actions(env: VectorEnv | TensorEnv) -> dict[Key, str]:
    return {key: _form(leaf.space) for key, leaf in leaves_of(env.envs.single_action_space, "action").items()}


def _form(space: Any) -> str:
    """A space without its bounds."""
    return f"Box {list(space.shape)}" if isinstance(space, Box) else str(space)


def _described(forms: Mapping[Key, str]) -> str:
    return ", ".join(form if len(forms) == 1 else f"{name_of(key)} {form}" for key, form in forms.items())


def trusted_by(env: Any) -> list[str]:
    """The modules of an environment that was given again: whoever gives it trusts them."""
    if env is None:
        return []
    given = env if isinstance(env, EnvConfig) else EnvConfig(env)
    return [module for each in (given.env_id, *given.wrappers) if (module := module_of(each))]


def _missing(config: Mapping[str, Any]) -> list[str]:
    """What a config has only a text for, in words."""
    found = [each for each in map(config.get, _IDS) if type(each) is str and each.startswith(UNNAMED)]
    for name in _ARGUMENTS:
        given = config.get(name)
        values = given if isinstance(given, dict) else {}
        found += [f"{name} {each}" for each, value in values.items() if _is_text(value)]
    given = config.get("wrapper")
    wrappers = [each for each in (given if isinstance(given, (list, tuple)) else ()) if type(each) is str]
    return found + [f"the wrapper {each}" for each in wrappers if each.startswith(UNNAMED) or UNWRITTEN in each]


def _is_text(value: Any) -> bool:
    return type(value) is str and value.startswith(UNWRITTEN)
