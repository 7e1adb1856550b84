"""What configs of older versions lack, or have and no longer need. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SINCE: dict[str, tuple[Any, str]] = {
    "eval_envs": (None, "env_id"),
    "log_info": ([], "env_id"),
    "schedule": ([], "env_id"),
    "env_kwargs": ({}, "env_id"),
    "eval_env_kwargs": (None, "env_id"),
    "wrapper": ([], "env_id"),
    "frame_stack": (1, "env_id"),
    "action_repeat": (1, "env_id"),
    "time_aware": (False, "env_id"),
    "normalize_observation": (False, "env_id"),
    "normalize_reward": (False, "env_id"),
    "clip_observation": (10.0, "env_id"),
    "clip_reward": (10.0, "env_id"),
    "initial_std": (1.0, "state_dependent_std"),
    "target_kl": (None, "value_clip"),
    "recurrent": (None, "state_dependent_std"),
    "recurrent_size": (128, "state_dependent_std"),
}
"""Newer fields, in JSON form: the value that changes nothing, and an older field of the same group."""
_GONE: dict[str, Any] = {"normalize_frames": None}
"""Fields of older versions, and the value with which they changed nothing."""


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config from `config.json`, with the fields that runs of older versions lack, and without old unused ones."""
    kept = {name: value for name, value in config.items() if name not in _GONE or value != _GONE[name]}
    since = {name: value for name, (value, beside) in _SINCE.items() if beside in config}
    return {**since, **kept}


def telling(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config in JSON form without the fields that only some versions have, where they change nothing."""
    neutral = {name: value for name, (value, _) in _SINCE.items()} | _GONE
    return {name: value for name, value in config.items() if name not in neutral or value != neutral[name]}
