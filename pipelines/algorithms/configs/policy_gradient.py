"""The options of the tabular policy gradient."""

from __future__ import annotations

from dataclasses import dataclass

from rlpipe.pipelines.config.fields import number
from rlpipe.pipelines.config.tabular import TabularConfig


@dataclass(frozen=True)
class Config(TabularConfig):
    """Tabular policy gradient."""

    beta: float = number(1.0, above=0, at_most=1e6)
    """Inverse temperature of the softmax over preferences."""
