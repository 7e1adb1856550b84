"""The options of tabular SARSA."""

from __future__ import annotations

from dataclasses import dataclass

from rlpipe.pipelines.config.tabular import ActionValueConfig


@dataclass(frozen=True)
class Config(ActionValueConfig):
    """Tabular SARSA."""
