"""The exact state of a Gymnasium vector environment in the middle of its episodes, if it offers one."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium.vector import SyncVectorEnv, VectorEnv
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit

from rlpipe.pipelines.checkpoints.state_checks import check_like
from rlpipe.pipelines.envs.backends.env_checker import Checked
from rlpipe.pipelines.envs.backends.pixel_observation import PixelObservation
from rlpipe.pipelines.envs.backends.sync import Copied
from rlpipe.pipelines.envs.wrappers.action_repeat import ActionRepeat
from rlpipe.pipelines.envs.wrappers.frame_stack import FrameStack
from rlpipe.pipelines.envs.wrappers.remaining_time import RemainingTime

_WITHOUT_STATE = (Checked, Copied, OrderEnforcing, PassiveEnvChecker, ActionRepeat, RemainingTime)
_WITH_STATE = (TimeLimit, PixelObservation, FrameStack)


def can_capture(envs: VectorEnv) -> bool:
    """Whether `capture` and `restore` cover a vector environment's whole state.

    They do if the vector environment, or each environment in it (in this process), has `get_state()` and
    `set_state(state)`, where a state consists of dicts, lists, numbers, text and arrays; it need not hold the generator
    `np_random`. Wrappers may be those that `gymnasium.make` adds, and rlpipe's.
    """
    if _offers_state(envs):
        return True
    return isinstance(envs, SyncVectorEnv) and all(_can_capture_one(env) for env in envs.envs)


def capture(envs: VectorEnv) -> dict[str, Any]:
    """The state of a vector environment for which `can_capture` holds, and which has been reset."""
    if _offers_state(envs):
        return {"state": envs.get_state(), "random": dict(envs.np_random.bit_generator.state)}  # type: ignore[attr-defined]
    return {"each": [_capture_one(env) for env in envs.envs]}  # type: ignore[attr-defined]


def restore(envs: VectorEnv, state: dict[str, Any]) -> None:
    """Continue from a `capture`."""
    if _offers_state(envs):
        envs.set_state(state["state"])  # type: ignore[attr-defined]
        envs.np_random.bit_generator.state = state["random"]
        return
    for env, own in zip(envs.envs, state["each"], strict=True):  # type: ignore[attr-defined]
        _restore_one(env, own)


def _offers_state(env: Any) -> bool:
    # looked up on its class, because a wrapper forwards attributes
    return all(callable(getattr(type(env), name, None)) for name in ("get_state", "set_state"))


def _layers(env: gym.Env[Any, Any]) -> tuple[list[gym.Env[Any, Any]], gym.Env[Any, Any]]:
    """The wrappers, outermost first, and the environment inside."""
    wrappers: list[gym.Env[Any, Any]] = []
    while isinstance(env, gym.Wrapper):
        wrappers.append(env)
        env = env.env
    return wrappers, env


def _can_capture_one(env: gym.Env[Any, Any]) -> bool:
    wrappers, base = _layers(env)
    return _offers_state(base) and all(type(each) in (*_WITHOUT_STATE, *_WITH_STATE) for each in wrappers)


def _capture_one(env: gym.Env[Any, Any]) -> dict[str, Any]:
    wrappers, base = _layers(env)
    return {
        "state": base.get_state(),  # type: ignore[attr-defined]
        "random": dict(base.np_random.bit_generator.state),
        "elapsed": [each._elapsed_steps for each in wrappers if isinstance(each, TimeLimit)],
        "pictures": [each.images for each in wrappers if isinstance(each, PixelObservation)],
        "stacks": [each.stacks for each in wrappers if isinstance(each, FrameStack)],
    }


def _restore_one(env: gym.Env[Any, Any], state: dict[str, Any]) -> None:
    wrappers, base = _layers(env)
    limits = [each for each in wrappers if isinstance(each, TimeLimit)]
    for limit, elapsed in zip(limits, state["elapsed"], strict=True):
        limit._elapsed_steps = elapsed
    observers = [each for each in wrappers if isinstance(each, PixelObservation)]
    for observer, pictures in zip(observers, state["pictures"], strict=True):
        check_like(observer.images, pictures, "pictures")
        observer.images = pictures
    stacked = [each for each in wrappers if isinstance(each, FrameStack)]
    # checkpoints of older versions have none
    for stack, rows in zip(stacked, state.get("stacks", []), strict=True):
        check_like(stack.stacks, rows, "stacks")
        stack.stacks = rows
    base.set_state(state["state"])  # type: ignore[attr-defined]
    base.np_random.bit_generator.state = state["random"]
