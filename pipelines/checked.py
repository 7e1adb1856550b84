"""A single environment whose faults are told in the step in which they happen.

Not among `envs/`, because each worker process imports this module, and that package imports PyTorch.
"""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Dict, Discrete, Space

from rlpipe.errors import ConfigError, TrainingError
from rlpipe.pipelines.games import AtariGame, is_game
from rlpipe.pipelines.pixels import PixelObservation
from rlpipe.pipelines.wrappers import check_wrappers

_NUMBERS = frozenset({float, int, np.float64, np.float32, np.int64})
_FLAGS = frozenset({bool, np.bool_})
_RETURNS = {
    "step": ("observation", "reward", "terminated", "truncated", "info"),
    "reset": ("observation", "info"),
}


class _FaultError(Exception):
    """What an environment returned, and what was expected."""


def make_checked(
    spec: EnvSpec, kwargs: dict[str, Any], who: str | None = None, *, from_pixels: bool = False
) -> Checked:
    """Make an environment, `Checked` in place of Gymnasium's checker, which warns, and only of the first step."""
    env = AtariGame(spec, **kwargs) if is_game(spec) else gym.make(spec, disable_env_checker=True, **kwargs)
    try:
        check_wrappers(env, spec.id)
    except ConfigError:
        env.close()
        raise
    return Checked(PixelObservation(env) if from_pixels else env, who)


class Checked(gym.Wrapper[Any, Any, Any, Any]):
    """Refuses an observation, a reward or a flag of the wrong shape or type, in the step in which it happens.

    Whether numbers are finite is asked of all environments at once, by `VectorEnv`.

    Args:
        env: to check.
        who: how messages call it; without, they leave that and the step to the worker process that it runs in.

    Raises:
        TrainingError: from `reset` and `step`; also for whatever the environment itself raises.
    """

    def __init__(self, env: gym.Env[Any, Any], who: str | None = None) -> None:
        super().__init__(env)
        self._who, self._steps = who, 0
        space = env.observation_space
        self._spaces: dict[str, Space[Any]] = dict(space.items()) if isinstance(space, Dict) else {"observation": space}
        self._is_dict = isinstance(space, Dict)
        # an array of this form needs no closer look
        self._form = (space.shape, space.dtype)

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        """See Gymnasium."""
        try:
            result = self.env.reset(**options)
        except Exception as error:
            raise self._told("reset", _in_words(error, "reset")) from error
        try:
            _check_count(result, "reset")
            self._check_observation(result[0])
        except _FaultError as fault:
            raise self._told("reset", str(fault)) from None
        return result

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """See Gymnasium."""
        self._steps += 1
        try:
            result = self.env.step(action)
        except Exception as error:
            raise self._told("step", _in_words(error, "step")) from error
        try:
            _check_count(result, "step")
            observation, reward, terminated, truncated, _ = result
            if type(observation) is not np.ndarray or (observation.shape, observation.dtype) != self._form:
                self._check_observation(observation)
            if type(reward) not in _NUMBERS:
                _check_reward(reward)
            if type(terminated) not in _FLAGS or type(truncated) not in _FLAGS:
                _check_flag("terminated", terminated)
                _check_flag("truncated", truncated)
        except _FaultError as fault:
            raise self._told("step", str(fault)) from None
        return result

    def _told(self, when: str, what: str) -> TrainingError:
        if self._who is None:
            return TrainingError(what)
        step = f"step {self._steps}" if when == "step" else f"its reset after step {self._steps}"
        return TrainingError(f"{self._who} failed in {step}: {what}")

    def _check_observation(self, observation: Any) -> None:
        if self._is_dict and not isinstance(observation, dict):
            raise _FaultError(f"the observation is {_type_name(observation)}, expected a dict of {list(self._spaces)}")
        entries = observation if self._is_dict else {"observation": observation}
        for key, space in self._spaces.items():
            if key not in entries:
                raise _FaultError(f"the observation has no key {key!r}; it has {sorted(map(str, entries))}")
            _check_entry(key, entries[key], space)


def _check_entry(key: str, value: Any, space: Space[Any]) -> None:
    # a space without, such as Tuple, is refused by its name when the environment is made
    if space.shape is None or space.dtype is None:
        return
    array = _as_array(key, value)
    if array.shape != space.shape:
        raise _FaultError(f"key {key!r} has shape {list(array.shape)}, expected {list(space.shape)}")
    if not np.can_cast(array.dtype, space.dtype, "same_kind"):
        raise _FaultError(f"key {key!r} has dtype {array.dtype}, expected {space.dtype}")
    if isinstance(space, Discrete) and not 0 <= int(array) - int(space.start) < int(space.n):
        last = int(space.start) + int(space.n) - 1
        raise _FaultError(f"key {key!r} is {array}, expected an integer from {space.start} to {last}")


def _check_reward(reward: Any) -> None:
    array = _as_array("reward", reward)
    if array.shape != ():
        raise _FaultError(f"key 'reward' has shape {list(array.shape)}, expected one number")
    if not np.can_cast(array.dtype, np.float64, "same_kind"):
        raise _FaultError(f"key 'reward' is {_type_name(reward)}, expected one number")


def _check_flag(key: str, flag: Any) -> None:
    array = _as_array(key, flag)
    if array.shape != () or array.dtype != np.bool_:
        raise _FaultError(f"key {key!r} is {_type_name(flag)}, expected True or False")


def _as_array(key: str, value: Any) -> np.ndarray:
    try:
        return np.asarray(value)
    except ValueError as error:
        raise _FaultError(f"key {key!r} cannot be an array: {error}") from error


def _check_count(result: Any, what: str) -> None:
    names = _RETURNS[what]
    if type(result) is tuple and len(result) == len(names) and isinstance(result[-1], dict):
        return
    got = f"{len(result)} values" if isinstance(result, tuple) and len(result) != len(names) else _type_name(result)
    if isinstance(result, tuple) and len(result) == len(names):
        got = f"{_type_name(result[-1])} as info"
    raise _FaultError(f"{what} returned {got}, expected {_expected(what)}, the last one a dict")


def _expected(what: str) -> str:
    return f"{len(_RETURNS[what])} values: {', '.join(_RETURNS[what])}"


def _type_name(value: Any) -> str:
    return "None" if value is None else f"{value!r:.40}, of type {type(value).__name__}"


def _in_words(error: Exception, what: str) -> str:
    """An exception's type and message; and where it came from, if it has no message."""
    words = f"{type(error).__name__}: {error}"
    if not str(error):
        frame = traceback.extract_tb(error.__traceback__)[-1]
        words = f"{type(error).__name__} without a message, in line {frame.lineno} of {Path(frame.filename).name}"
    # one of Gymnasium's own wrappers took the result apart
    if isinstance(error, ValueError) and "values to unpack" in str(error):
        words += f"; {what} is expected to return {_expected(what)}"
    return words
