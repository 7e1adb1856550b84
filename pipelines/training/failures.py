"""What ends a run, told with the last good checkpoint."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from rlpipe.errors import GPUMemoryError, TrainingError
from rlpipe.modules import GaussianActor
from rlpipe.pipelines.devices import gpu_memory_for
from rlpipe.pipelines.runs.run import Run


def check_finite(scalars: Mapping[str, float], frames: int, run: Run | None) -> None:
    """Refuse scalars of which one is NaN or infinite.

    Raises:
        TrainingError: names it, the frame and the last checkpoint.
    """
    for key, value in scalars.items():
        if not math.isfinite(value):
            raise diverged(frames, key, str(value), run)


def diverged(frames: int, what: str, value: str, run: Run | None) -> TrainingError:
    """The error for something that is not finite."""
    message = f"training stopped at frame {frames}: {what} is {value}"
    return TrainingError(naming_last(message, run))


def weights_of(policy: nn.Module) -> dict[str, Tensor]:
    """The tensors of a policy's state, without the bounds of its actions, which may be as large as they like."""
    actors = [name for name, module in policy.named_modules() if isinstance(module, GaussianActor)]
    bounds = {f"{name}.{bound}".lstrip(".") for name in actors for bound in ("low", "high")}
    state = policy.state_dict()
    return {name: each for name, each in state.items() if isinstance(each, Tensor) and name not in bounds}


@contextlib.contextmanager
def naming_checkpoint(run: Run | None) -> Iterator[None]:
    """Put the run's last good checkpoint behind an error of the GPU's memory."""
    try:
        with gpu_memory_for("training", "--num-envs, --rollout-steps, --minibatch-size or --hidden"):
            yield
    except GPUMemoryError as error:
        raise GPUMemoryError(naming_last(str(error), run)) from error


def naming_last(message: str, run: Run | None) -> str:
    """A message with the run's last good checkpoint behind it."""
    if run is None:
        return message
    last = run.last_checkpoint()
    return f"{message}; {f'the last good checkpoint is {last}' if last else 'there is no checkpoint yet'}"
