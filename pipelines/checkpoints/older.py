"""What runs of older versions lack. Imports nothing heavy."""

from __future__ import annotations

from typing import Any

SINCE: dict[str, Any] = {
    "eval_envs": None,
    "env_kwargs": {},
    "eval_env_kwargs": None,
    "wrapper": [],
    "frame_stack": 1,
    "action_repeat": 1,
    "time_aware": False,
}
"""Config fields, in JSON form, with the values that make a run what it was without them."""
