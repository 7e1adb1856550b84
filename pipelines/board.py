"""TensorBoard's event files of a run."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from pathlib import Path

from rlpipe.errors import TrainingError


class Board:
    """Writes scalars into `tensorboard/` of a run folder, through TorchRL's logger.

    Args:
        folder: of the run.
        resumed_at: frames at which a run goes on; TensorBoard then forgets what it was told of later ones.
    """

    def __init__(self, folder: Path, resumed_at: int | None = None) -> None:
        # slow to import, and not needed to read a run
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415
        from torchrl.record import TensorboardLogger  # noqa: PLC0415

        self._folder = folder / "tensorboard"
        try:
            self._logger = TensorboardLogger("tensorboard", log_dir=str(folder))
            if resumed_at is not None:
                self._logger.experiment.close()
                self._logger.experiment = SummaryWriter(str(self._folder), purge_step=resumed_at + 1)
        except OSError as error:
            raise self._unwritable(error) from error
        _keep_writers_quiet()

    def log(self, scalars: Mapping[str, float], frames: int) -> None:
        """Write scalars by their names.

        Raises:
            TrainingError: an earlier one could not be written.
        """
        try:
            self._logger.log_metrics(dict(scalars), step=frames)
        except OSError as error:
            raise self._unwritable(error) from error

    def close(self) -> None:
        """Write what is left, if it can be written."""
        with contextlib.suppress(OSError):
            self._logger.experiment.close()

    def _unwritable(self, error: OSError) -> TrainingError:
        return TrainingError(f"{self._folder} cannot be written: {error.strerror}")


def _keep_writers_quiet() -> None:
    """Let the thread that writes events die without a traceback: the next call to `log` raises what it died of."""
    before = threading.excepthook

    def hook(failure: threading.ExceptHookArgs) -> None:
        if not (isinstance(failure.exc_value, OSError) and type(failure.thread).__module__.startswith("tensorboard")):
            before(failure)

    if not hasattr(before, "quiet"):
        hook.quiet = True  # type: ignore[attr-defined]
        threading.excepthook = hook
