"""Policies that remember."""

from rlpipe.kinds import MemoryKind
from rlpipe.modules.recurrent.memory import Memory, WholeEpisodes, over_episodes, remembering
from rlpipe.modules.recurrent.states import FIRST, after, carried_specs, recurrent_parts, state_specs

__all__ = [
    "FIRST",
    "Memory",
    "MemoryKind",
    "WholeEpisodes",
    "after",
    "carried_specs",
    "over_episodes",
    "recurrent_parts",
    "remembering",
    "state_specs",
]
