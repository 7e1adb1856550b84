"""Weights & Biases, through TorchRL's logger."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from rlpipe.pipelines.runs.loggers.base import PROJECT, SECONDS, Logged


class WandbLog:
    """Weights & Biases, through TorchRL's logger, with its files in `wandb/` of the run folder."""

    def __init__(self, logged: Logged) -> None:
        import wandb  # noqa: PLC0415 - slow to import, and an extra
        from torchrl.record import WandbLogger  # noqa: PLC0415

        # a run folder with links is refused when it is resumed
        quiet: dict[str, Any] = {"console": "off", "quiet": True, "symlink": False}
        settings = wandb.Settings(**quiet, init_timeout=SECONDS, finish_timeout=2 * SECONDS)
        self._logger = WandbLogger(
            logged.name,
            save_dir=str(logged.folder.resolve()),
            id=logged.id,
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            log_env_packages=False,
            config={"recipe": logged.recipe, **logged.config},
            settings=settings,
        )
        self.id = str(self._logger.experiment.id)

    def log(self, scalars: Mapping[str, float], frames: int) -> None:
        """Hand scalars to W&B's process, which sends them; each group has its own `step` axis."""
        self._logger.log_metrics(dict(scalars), step=frames)

    def close(self, *, finished: bool) -> None:
        """Wait until everything is sent."""
        self._logger.experiment.finish(exit_code=0 if finished else 1)
