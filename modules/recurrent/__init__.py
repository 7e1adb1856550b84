"""Policies that remember."""

from rlpipe.modules.recurrent.memory import FIRST, Memory, MemoryKind, WholeEpisodes, memories

__all__ = ["FIRST", "Memory", "MemoryKind", "WholeEpisodes", "memories"]
