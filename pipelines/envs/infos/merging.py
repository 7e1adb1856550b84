"""Gymnasium's own vector environments, made to accept the infos of any environments."""

from __future__ import annotations

import contextlib
from typing import Any

from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv

_GYMNASIUMS = frozenset({"final_obs", "final_info"})


def merge_what_fits(envs: VectorEnv) -> None:
    """Let Gymnasium's vector environment, which may be wrapped, leave out what it cannot merge of an info.

    It raises an error where two environments that step together have arrays of other lengths, or other types; and it
    takes `final_obs` in the info of a reset for an episode's last observation.
    """
    stock: Any = envs.unwrapped
    if type(stock) not in (SyncVectorEnv, AsyncVectorEnv):
        return
    add = stock._add_info

    def add_each(infos: dict[str, Any], info: dict[str, Any], index: int) -> dict[str, Any]:
        # Gymnasium adds both of an episode's end first
        has_ended = infos.get("_final_obs", {index: False})[index]
        for key, value in info.items():
            if not (has_ended and key in _GYMNASIUMS):
                with contextlib.suppress(Exception):
                    infos = add(infos, {key: value}, index)
        return infos

    stock._add_info = add_each
