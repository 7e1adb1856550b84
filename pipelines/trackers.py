"""Weights & Biases and MLflow, through TorchRL's loggers."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROJECT = "rlpipe"
"""The W&B project and the MLflow experiment, unless the environment names another."""

_SECONDS = 30


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
        return {"recipe": self.recipe, **{name: _plain(value) for name, value in self.config.items()}}


class WandbBoard:
    """Weights & Biases, through TorchRL's logger; its files lie in `wandb/` of the run folder."""

    def __init__(self, logged: Logged) -> None:
        import wandb  # noqa: PLC0415 - slow to import, and an extra
        from torchrl.record import WandbLogger  # noqa: PLC0415

        # links would be refused in a run folder that goes on
        quiet: dict[str, Any] = {"console": "off", "quiet": True, "symlink": False}
        settings = wandb.Settings(**quiet, init_timeout=_SECONDS, finish_timeout=2 * _SECONDS)
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
        """Hand scalars to W&B's own process, which sends them; each group is drawn over its own `step`."""
        self._logger.log_metrics(dict(scalars), step=frames)

    def close(self, *, finished: bool) -> None:
        """Wait until everything is sent."""
        self._logger.experiment.finish(exit_code=0 if finished else 1)


class MLflowBoard:
    """MLflow, through TorchRL's logger, where `MLFLOW_TRACKING_URI` says."""

    def __init__(self, logged: Logged) -> None:
        # a server that is away is no reason to wait for minutes
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(_SECONDS))
        import mlflow  # noqa: PLC0415 - slow to import, and an extra
        from torchrl.record import MLFlowLogger  # noqa: PLC0415

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        with _run_id_kept():
            if logged.id is not None:
                # what MLflow goes on with, once
                os.environ["MLFLOW_RUN_ID"] = logged.id
            self._logger = MLFlowLogger(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT), _tracking_uri())
        self._mlflow, self.id = mlflow, str(self._logger.experiment.info.run_id)
        try:
            if logged.id is None:
                mlflow.set_tag("mlflow.runName", logged.name)
                mlflow.log_params(logged.hyperparameters())
        except BaseException:
            # else the next run of this process would find it still open
            with contextlib.suppress(Exception), _run_id_kept():
                mlflow.end_run("FAILED")
            raise

    def log(self, scalars: Mapping[str, float], frames: int) -> None:
        """Send scalars, and wait until they are there."""
        self._logger.log_metrics(dict(scalars), step=frames)

    def close(self, *, finished: bool) -> None:
        """Mark the run as finished, or as one that was stopped."""
        with _run_id_kept():
            self._mlflow.end_run("FINISHED" if finished else "KILLED")


def _plain(value: Any) -> bool | float | str:
    if isinstance(value, (bool, int, float, str)):
        return value
    return " ".join(map(str, value)) if isinstance(value, (tuple, list)) else "none"


@contextlib.contextmanager
def _run_id_kept() -> Iterator[None]:
    """Leave the user's MLFLOW_RUN_ID as it was; MLflow itself forgets it with any run that it ends."""
    before = os.environ.get("MLFLOW_RUN_ID")
    try:
        yield
    finally:
        os.environ.pop("MLFLOW_RUN_ID", None)
        os.environ.update({} if before is None else {"MLFLOW_RUN_ID": before})


def _tracking_uri() -> str:
    return os.environ.get("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
