"""TensorBoard's event files of a run."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from pathlib import Path


class TensorBoardLog:
    """Writes scalars into `tensorboard/` of a run folder, through TorchRL's logger.

    The hyperparameters are those of TensorBoard's HParams page. Only a session's start and end are written, and no list
    of hyperparameters and metrics: TensorBoard would use one run's list for all runs. Events of later frames than
    `resumed_at` are dropped.

    Raises:
        OSError: the files cannot be written.
    """

    def __init__(
        self, folder: Path, hyperparameters: Mapping[str, bool | float | str], resumed_at: int | None = None
    ) -> None:
        # slow to import, and not needed to read a run
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb  # noqa: PLC0415
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415
        from torchrl.record import TensorboardLogger  # noqa: PLC0415

        self._logger = TensorboardLogger("tensorboard", log_dir=str(folder))
        if resumed_at is not None:
            self._logger.experiment.close()
            self._logger.experiment = SummaryWriter(str(folder / "tensorboard"), purge_step=resumed_at + 1)
        _keep_writers_quiet()
        # again in a resumed run: what was written before it was killed may not have reached the disk
        self._logger.experiment.file_writer.add_summary(hparams_pb(dict(hyperparameters), trial_id=str(folder)))

    def log(self, scalars: Mapping[str, float], frames: int) -> None:
        """Write scalars by name.

        Raises:
            OSError: an earlier one could not be written.
        """
        self._logger.log_metrics(dict(scalars), step=frames)

    def close(self, *, finished: bool) -> None:
        """Write what is left, and for a finished run its end."""
        from torch.utils.tensorboard.summary import hparams  # noqa: PLC0415

        with contextlib.closing(self._logger.experiment) as writer:
            if finished:
                *_, ended = hparams({}, {})
                writer.file_writer.add_summary(ended)


def _keep_writers_quiet() -> None:
    """Let the thread that writes events end without a traceback: the next call of `log` raises its error."""
    before = threading.excepthook

    def hook(failure: threading.ExceptHookArgs) -> None:
        if not (isinstance(failure.exc_value, OSError) and type(failure.thread).__module__.startswith("tensorboard")):
            before(failure)

    if not hasattr(before, "quiet"):
        hook.quiet = True  # type: ignore[attr-defined]
        threading.excepthook = hook
