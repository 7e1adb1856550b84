"""MLflow, through TorchRL's logger."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping

from rlpipe.pipelines.runs.loggers.base import PROJECT, SECONDS, Logged


class MLflowLog:
    """MLflow, through TorchRL's logger, where `MLFLOW_TRACKING_URI` says."""

    def __init__(self, logged: Logged) -> None:
        # do not wait for minutes for a server that does not answer
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(SECONDS))
        import mlflow  # noqa: PLC0415 - slow to import, and an extra
        from torchrl.record import MLFlowLogger  # noqa: PLC0415

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        with _run_id_kept():
            if logged.id is not None:
                # the run that MLflow resumes, once
                os.environ["MLFLOW_RUN_ID"] = logged.id
            where = os.environ.get("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
            self._logger = MLFlowLogger(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT), where)
        self._mlflow, self.id = mlflow, str(self._logger.experiment.info.run_id)
        try:
            if logged.id is None:
                mlflow.set_tag("mlflow.runName", logged.name)
                mlflow.log_params(logged.hyperparameters())
        except BaseException:
            # else it would still be open in the next run of this process
            with contextlib.suppress(Exception), _run_id_kept():
                mlflow.end_run("FAILED")
            raise

    def log(self, scalars: Mapping[str, float], frames: int) -> None:
        """Send scalars, and wait until they have arrived."""
        self._logger.log_metrics(dict(scalars), step=frames)

    def close(self, *, finished: bool) -> None:
        """Mark the run as finished, or as one that was stopped."""
        with _run_id_kept():
            self._mlflow.end_run("FINISHED" if finished else "KILLED")


@contextlib.contextmanager
def _run_id_kept() -> Iterator[None]:
    """Restore the user's MLFLOW_RUN_ID, which MLflow deletes whenever it ends a run."""
    before = os.environ.get("MLFLOW_RUN_ID")
    try:
        yield
    finally:
        os.environ.pop("MLFLOW_RUN_ID", None)
        os.environ.update({} if before is None else {"MLFLOW_RUN_ID": before})
