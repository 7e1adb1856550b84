"""What loggers have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROJECT = "rlpipe"
"""The W&B project and the MLflow experiment, unless an environment variable names another."""
SECONDS = 30
"""How long to wait for a server."""


@dataclass(frozen=True)
class Logged:
    """A run, as described to a logger.

    Args:
        resumed_at: frames of a run that is resumed.
        id: by which the logger knows a run that is resumed.
    """

    folder: Path
    recipe: str
    config: Mapping[str, Any]
    resumed_at: int | None = None
    id: str | None = None

    @property
    def name(self) -> str:
        """Its name in a list of runs."""
        return f"{self.recipe}/{self.folder.resolve().name}"

    def hyperparameters(self) -> dict[str, bool | float | str]:
        """The recipe and the Config's fields; several numbers, and `None`, as on the command line."""
        return {"recipe": self.recipe, **{name: plain(value) for name, value in self.config.items()}}


def plain(value: Any) -> bool | float | str:
    if isinstance(value, (bool, int, float, str)):
        return value
    return " ".join(map(str, value)) if isinstance(value, (tuple, list)) else "none"
