"""Checks a single environment: faults raise in the step in which they happen, and arrays match the spaces.

Worker processes import this module, so it must not import PyTorch.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import traceback
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Tuple

from rlpipe.errors import TrainingError
from rlpipe.pipelines.envs.backends.atari_game import AtariGame, is_game
from rlpipe.pipelines.envs.backends.dtypes import FaultError, cast, readable
from rlpipe.pipelines.envs.entries import LEAVES, copied, is_of_boxes, leaves_of
from rlpipe.pipelines.envs.infos.keys import InfoKey
from rlpipe.pipelines.envs.infos.log import InfoPicker
from rlpipe.pipelines.envs.wrappers.learning import check_wrappers
from rlpipe.warn_once import notice, notice_mujoco

Env = gym.Env[Any, Any]
_NUMBERS = frozenset({float, int, np.float64, np.float32, np.int64})
_FLAGS = frozenset({bool, np.bool_})
_RETURNS = {
    "step": ("observation", "reward", "terminated", "truncated", "info"),
    "reset": ("observation", "info"),
}
_LENT = (
    "another user of the same environment, such as an evaluation, has reset it in the middle of the episode; make a "
    "new environment in each call of the function that is registered, or leave out --eval-every"
)
# the last `Checked` that reset an environment, by the id of the environment itself
_users: weakref.WeakValueDictionary[int, Checked] = weakref.WeakValueDictionary()


def make_checked(
    spec: EnvSpec,
    kwargs: dict[str, Any],
    who: str | None = None,
    *,
    wrap: Callable[[Env], Env] | None = None,
    log_info: Sequence[InfoKey] = (),
) -> Checked:
    """Make an environment with `Checked` in place of Gymnasium's checker, which only warns, at the first step.

    `wrap` puts more wrappers around it, inside of `Checked`.
    """
    if "mujoco" in str(spec.entry_point):
        # it warns while a model is loaded; where it cannot be imported, Gymnasium says why
        with contextlib.suppress(Exception):
            importlib.import_module("mujoco")
    notice_mujoco()
    env = AtariGame(spec, **kwargs) if is_game(spec) else gym.make(spec, disable_env_checker=True, **kwargs)
    notice_mujoco()
    try:
        wrapped = env if wrap is None else wrap(env)
        check_wrappers(wrapped, spec.id)
        for space, what in ((wrapped.observation_space, "observation"), (wrapped.action_space, "action")):
            leaves_of(space, what)
        return Checked(wrapped, who, log_info)
    except BaseException:
        with contextlib.suppress(Exception):
            env.close()
        raise


class Checked(gym.Wrapper[Any, Any, Any, Any]):
    """Refuses an observation, a reward or a flag of the wrong shape or type, in the step in which it happens.

    Values are cast to what the spaces say if that loses nothing: lists, tensors and arrays of other types become arrays
    of the space's type, rewards floats, flags of 0 and 1 booleans. Types that PyTorch lacks are replaced, see
    `readable`. The last observation of an episode is a copy, because environments reuse their arrays. Of the infos only
    an `is_success` at the end of an episode and the numbers of `log_info` are kept, as floats.

    `VectorEnv` checks for all environments at once whether numbers are finite.

    Args:
        env: to check.
        who: its name in messages; without it, the worker process that it runs in adds a name and the step.
        log_info: numbers to keep.

    Raises:
        TrainingError: from `reset` and `step`; also for any exception of the environment.
    """

    def __init__(self, env: gym.Env[Any, Any], who: str | None = None, log_info: Sequence[InfoKey] = ()) -> None:
        super().__init__(env)
        self._infos, self._logs_steps = InfoPicker(log_info), bool(log_info)
        self._who, self._steps, self._is_lent = who, 0, False
        # if a worker process exits, its parent reports that
        self._errors: tuple[type[BaseException], ...] = (Exception,) if who is None else (Exception, SystemExit)
        self._own = env.observation_space
        self.observation_space = space = readable(self._own)
        # arrays of these forms need no further check, because they are those of Boxes
        self._form = (space.shape, space.dtype) if isinstance(space, Box) else None
        self._forms: list[tuple[Any, Any, Any]] = []
        if isinstance(self._own, Dict) and is_of_boxes(space):
            leaves = leaves_of(space, "observation").values()
            self._forms = [(leaf.get, leaf.space.shape, leaf.space.dtype) for leaf in leaves]

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        before, _users[id(self.unwrapped)] = _users.get(id(self.unwrapped)), self
        if before is not None and before is not self:
            before._is_lent = True
        self._is_lent = False
        try:
            result = self.env.reset(**options)
        except self._errors as error:
            raise self._error("reset", _in_words(error, "reset")) from error
        try:
            _check_count(result, "reset")
            return self._read(result[0]), {}
        except FaultError as fault:
            raise self._error("reset", str(fault)) from None

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self._steps += 1
        if self._is_lent:
            raise self._error("step", _LENT)
        try:
            result = self.env.step(action)
        except self._errors as error:
            raise self._error("step", _in_words(error, "step")) from error
        try:
            _check_count(result, "step")
            observation, reward, terminated, truncated, info = result
            if self._form is None or type(observation) is not np.ndarray:
                if not (self._forms and self._has_forms(observation)):
                    observation = self._read(observation)
            elif (observation.shape, observation.dtype) != self._form:
                observation = self._read(observation)
            if type(reward) not in _NUMBERS:
                reward = _number(reward)
            if type(terminated) not in _FLAGS or type(truncated) not in _FLAGS:
                terminated, truncated = _flag("terminated", terminated), _flag("truncated", truncated)
        except FaultError as fault:
            raise self._error("step", str(fault)) from None
        if not (terminated or truncated):
            kept = self._infos.pick(info, ended=False) if self._logs_steps else {}
            return observation, reward, terminated, truncated, kept
        # of a Dict only the entries of its space, which are arrays
        last = copied(self._read(observation) if self._forms else observation)
        return last, reward, terminated, truncated, self._infos.pick(info, ended=True)

    def close(self) -> None:
        """Close the environment; a failure is only shown as a notice, because the results are complete."""
        try:
            self.env.close()
        except (Exception, SystemExit) as error:
            spec = self.unwrapped.spec
            name = "an environment" if spec is None else spec.id
            notice(f"rlpipe: {name} could not be closed: {' '.join(_in_words(error, 'close').split())}")

    def _error(self, when: str, what: str) -> TrainingError:
        if self._who is None:
            return TrainingError(what)
        step = f"step {self._steps}" if when == "step" else f"its reset after step {self._steps}"
        return TrainingError(f"{self._who} failed in {step}: {what}")

    def _has_forms(self, observation: Any) -> bool:
        # a loop, because a generator takes twice as long
        try:
            for get, shape, dtype in self._forms:
                array = get(observation)
                # a type that is equal but another object takes the longer way
                if type(array) is not np.ndarray or array.dtype is not dtype or array.shape != shape:
                    return False
        except (KeyError, IndexError, TypeError):
            return False
        return True

    def _read(self, observation: Any) -> Any:
        return read_as(observation, self._own, self.observation_space)


def read_as(value: Any, own: Space[Any], read: Any, where: str = "") -> Any:
    """An observation of the space `own`, or the part of it at `where`, as one of the space `read`."""
    if isinstance(own, Dict):
        if not isinstance(value, dict):
            raise FaultError(f"{_place(where)} is {_type_name(value)}, expected a dict of {list(own)}")
        for key in own:
            if key not in value:
                raise FaultError(f"{_place(where)} has no entry {key!r}; it has {sorted(map(str, value))}")
        return {key: read_as(value[key], each, read[key], f"{where}{key}.") for key, each in own.items()}
    if isinstance(own, Tuple):
        if not isinstance(value, (tuple, list)) or len(value) != len(own):
            raise FaultError(f"{_place(where)} is {_type_name(value)}, expected a tuple of {len(own)}")
        parts = zip(value, own, read, strict=True)
        return tuple(read_as(*part, f"{where}{index}.") for index, part in enumerate(parts))
    return _entry(where[:-1] or "observation", value, own, read)


def _place(where: str) -> str:
    return f"key {where[:-1]!r}" if where else "the observation"


def _entry(key: str, value: Any, own: Any, read: Any) -> Any:
    # other spaces are refused when the environment is made, unless images hide them
    if not isinstance(own, LEAVES):
        return value
    array, shape = _as_array(key, value), own.shape or ()
    if array.shape != shape:
        if not array.size == math.prod(shape) == 1:
            raise FaultError(f"key {key!r} has shape {list(array.shape)}, expected {list(shape)}")
        array = array.reshape(shape)
    array = cast(key, array, own.dtype, read.dtype)
    if not isinstance(own, Box):
        _check_range(key, array, own)
    return array


def _check_range(key: str, array: np.ndarray, space: Discrete | MultiDiscrete | MultiBinary) -> None:
    """Refuse integers that are not in a space, by a `FaultError`."""
    start: Any = 0 if isinstance(space, MultiBinary) else space.start
    count: Any = 2 if isinstance(space, MultiBinary) else space.n if isinstance(space, Discrete) else space.nvec
    wrong = (array < start) | (array >= start + count)
    if wrong.any():
        place = tuple(int(each) for each in np.argwhere(wrong)[0])
        first, number = (int(np.broadcast_to(each, array.shape)[place]) for each in (start, count))
        at = f" at {list(place)}" if place else ""
        raise FaultError(f"key {key!r} is {array[place]}{at}, expected an integer from {first} to {first + number - 1}")


def _number(reward: Any) -> float:
    array = _as_array("reward", reward)
    if array.size != 1 or isinstance(reward, (list, tuple)):
        raise FaultError(f"key 'reward' has shape {list(array.shape)}, expected one number")
    if not np.can_cast(array.dtype, np.float64, "same_kind"):
        raise FaultError(f"key 'reward' is {_type_name(reward)}, expected one number")
    return float(array.item())


def _flag(key: str, flag: Any) -> bool:
    array = _as_array(key, flag)
    plain = array.size == 1 and array.dtype.kind in "biuf" and not isinstance(flag, (list, tuple))
    if not plain or array.item() not in (0, 1):
        raise FaultError(f"key {key!r} is {_type_name(flag)}, expected True or False")
    return bool(array.item())


def _as_array(key: str, value: Any) -> np.ndarray:
    try:
        # NumPy does not convert a tensor that requires a gradient or is on a GPU
        return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise FaultError(f"key {key!r} cannot be an array: {error}") from error


def _check_count(result: Any, what: str) -> None:
    names = _RETURNS[what]
    if type(result) is tuple and len(result) == len(names) and isinstance(result[-1], dict):
        return
    got = f"{len(result)} values" if isinstance(result, tuple) and len(result) != len(names) else _type_name(result)
    if isinstance(result, tuple) and len(result) == len(names):
        got = f"{_type_name(result[-1])} as info"
    raise FaultError(f"{what} returned {got}, expected {_expected(what)}, the last one a dict")


def _expected(what: str) -> str:
    return f"{len(_RETURNS[what])} values: {', '.join(_RETURNS[what])}"


def _type_name(value: Any) -> str:
    return "None" if value is None else f"{value!r:.40}, of type {type(value).__name__}"


def _in_words(error: BaseException, what: str) -> str:
    """An exception's type and message; and the line that raised it, if it has no message."""
    words = f"{type(error).__name__}: {error}"
    if not str(error):
        frame = traceback.extract_tb(error.__traceback__)[-1]
        words = f"{type(error).__name__} without a message, in line {frame.lineno} of {Path(frame.filename).name}"
    # raised by a Gymnasium wrapper that unpacks the result
    if isinstance(error, ValueError) and "values to unpack" in str(error):
        words += f"; {what} is expected to return {_expected(what)}"
    return words
