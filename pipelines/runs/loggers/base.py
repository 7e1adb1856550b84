"""What a logger is told of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROJECT = "rlpipe"
"""The W&B project and the MLflow experiment, unless the environment names another."""
SECONDS = 30


@dataclass(frozen=True)
class Logged:
    """What a logger is told of a run when it begins.

    Args:
        folder: of the run.
        recipe: its name.
        config: the Config's fields.
        resumed_at: frames at which a run goes on.
        id: under which the logger knows a run that goes on.
    """

    folder: Path
    recipe: str
    config: Mapping[str, Any]
    resumed_at: int | None = None
    id: str | None = None

    @property
    def name(self) -> str:
        """What it is called in a list."""
        return f"{self.recipe}/{self.folder.resolve().name}"

    def hyperparameters(self) -> dict[str, bool | float | str]:
        """The recipe and the Config's fields; several numbers, and none, as they are typed."""
        return {"recipe": self.recipe, **{name: plain(value) for name, value in self.config.items()}}


def plain(value: Any) -> bool | float | str:
    if isinstance(value, (bool, int, float, str)):
        return value
    return " ".join(map(str, value)) if isinstance(value, (tuple, list)) else "none"
