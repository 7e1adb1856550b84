"""From a class, a function or an instance of TorchRL's kind to a `TensorEnv` of so many environments."""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torchrl.envs import EnvBase, SerialEnv

from rlpipe.errors import ConfigError, RlpipeError, first_line
from rlpipe.pipelines.envs.arguments.signature import unknown_argument
from rlpipe.pipelines.envs.tensor.adopted import AdoptedEnv


class BatchSizeError(ConfigError):
    """An environment that is batched itself, and not of as many as wanted.

    Args:
        num_envs: how many it has.
    """

    def __init__(self, message: str, num_envs: int) -> None:
        super().__init__(message)
        self.num_envs = num_envs


def adopt(
    given: Any,
    name: str,
    num_envs: int,
    *,
    kwargs: Mapping[str, Any] | None = None,
    limit: int | None = None,
    seed: int | None = None,
    device: torch.device | None = None,
) -> AdoptedEnv:
    """Make `num_envs` environments: one that is batched as it is, one that is not as many times, in a `SerialEnv`.

    Args:
        given: a subclass of `EnvBase` or a function, called with those of `num_envs`, `batch_size` and `device` that it
            names; or an instance, which is copied.
        name: of it, in messages.
        num_envs: how many.
        kwargs: more arguments.
        limit: see `AdoptedEnv`.
        seed: see `AdoptedEnv`.
        device: for those that take one.

    Raises:
        ConfigError: it cannot be made, has another form than rlpipe takes, or is batched for another number
            (`BatchSizeError`).
    """
    make = _maker(given, name, num_envs, dict(kwargs or {}), device or torch.device("cpu"))
    env = make()
    if not isinstance(env, EnvBase):
        raise ConfigError(f"env-id is {name!r}, which made a {type(env).__name__}; expected an environment of TorchRL")
    try:
        batched = _batched(env, given, name, num_envs, make)
        return AdoptedEnv(batched, name, limit=limit, seed=seed)
    except BaseException:
        with contextlib.suppress(Exception):
            env.close(raise_if_closed=False)
        raise


def _batched(env: EnvBase, given: Any, name: str, num_envs: int, make: Callable[[], EnvBase]) -> EnvBase:
    """So many environments, of which `env` is the first or all."""
    if not env.batch_size:
        if isinstance(given, EnvBase) and num_envs > 1:
            raise ConfigError(f"num_envs is {num_envs}, and {name} is one environment; give the function that makes it")
        made = [env]
        return SerialEnv(num_envs, lambda: made.pop() if made else make())
    if len(env.batch_size) == 1 and env.batch_size[0] != num_envs:
        raise BatchSizeError(
            f"num_envs is {num_envs}, and {name} has batch size {list(env.batch_size)}; set num_envs to "
            f"{env.batch_size[0]}, or let it take an argument num_envs",
            env.batch_size[0],
        )
    return env


def _maker(given: Any, name: str, num_envs: int, kwargs: dict[str, Any], device: torch.device) -> Callable[[], EnvBase]:
    if isinstance(given, EnvBase):
        return lambda: _copied(given, name)
    known = {"num_envs": num_envs, "batch_size": torch.Size([num_envs]), "device": device}
    parameters = _parameters(given)
    if parameters is not None and not any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        for each in kwargs:
            if each not in parameters:
                raise unknown_argument(each, [*parameters], f"env-kwargs: {name}")
    taken = {key: value for key, value in known.items() if key in (parameters or ())} | kwargs

    def make() -> EnvBase:
        try:
            made: EnvBase = given(**taken)
        except RlpipeError:
            raise
        except Exception as error:  # the user's code
            raise ConfigError(f"env-id {name!r} cannot be made: {type(error).__name__}: {first_line(error)}") from error
        return made

    return make


def _copied(env: EnvBase, name: str) -> EnvBase:
    try:
        copied: EnvBase = copy.deepcopy(env)
    except Exception as error:  # the user's code
        raise ConfigError(
            f"{name} is an instance that cannot be copied ({first_line(error)}); give the function that makes it"
        ) from error
    return copied


def _parameters(given: Any) -> dict[str, inspect.Parameter] | None:
    # of its class's `__init__`, not of TorchRL's metaclass
    called: Any = inspect.getattr_static(given, "__init__") if isinstance(given, type) else given
    try:
        found = dict(inspect.signature(called).parameters)
    except (TypeError, ValueError):
        return None
    if isinstance(given, type):
        found.pop(next(iter(found)))
    return found
