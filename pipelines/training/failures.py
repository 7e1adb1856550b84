"""What ends training with an error: numbers that are not finite, weights that diverge, a GPU without memory."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from rlpipe.errors import PolicyDivergedError, TrainingError
from rlpipe.modules import DeterministicActor, GaussianActor
from rlpipe.pipelines.devices import gpu_memory_for
from rlpipe.pipelines.runs.run import Run
from rlpipe.pipelines.runs.run_files import naming_checkpoint

_DIVERGED = 1e6
"""No useful policy has a weight as large as this."""


@contextlib.contextmanager
def explained(run: Run | None) -> Iterator[None]:
    """Name the last good checkpoint of a run in errors of training, and turn a full GPU into one of them."""
    what = gpu_memory_for("training", "--num-envs, --rollout-steps, --minibatch-size or --hidden")
    with naming_checkpoint(None if run is None else run.folder), what:
        yield


def check_finite(scalars: Mapping[str, float], frames: int) -> None:
    """Refuse scalars of which one is NaN or infinite.

    Raises:
        TrainingError: names it and the frame.
    """
    for key, value in scalars.items():
        if not math.isfinite(value):
            raise TrainingError(f"training stopped at frame {frames}: {key} is {value}")


def check_weights(policy: nn.Module, frames: int) -> None:
    """Refuse a policy with a weight that is NaN or infinite.

    Raises:
        TrainingError: names it and the frame.
    """
    for name, weight in weights_of(policy).items():
        if not weight.isfinite().all():
            raise TrainingError(f"training stopped at frame {frames}: weight {name} is not finite")


def check_diverged(policy: nn.Module, error: TrainingError) -> None:
    """Blame a policy that has diverged for the failure of an environment.

    Raises:
        PolicyDivergedError: it has such large weights that it asks the impossible of any environment.
    """
    numbers = [weight for weight in weights_of(policy).values() if weight.numel() and weight.is_floating_point()]
    largest = max((weight.abs().max().item() for weight in numbers), default=0.0)
    if largest >= _DIVERGED:
        raise PolicyDivergedError(
            f"{error}; but the policy has diverged, its largest weight is {largest:.0e}: try a lower lr or step_size"
        ) from error


def weights_of(policy: nn.Module) -> dict[str, Tensor]:
    """The tensors of a policy's state, except the bounds of its actions, which may be as large as they like."""
    kinds = (GaussianActor, DeterministicActor)
    actors = [name for name, module in policy.named_modules() if isinstance(module, kinds)]
    bounds = {f"{name}.{bound}".lstrip(".") for name in actors for bound in ("low", "high")}
    state = policy.state_dict()
    return {name: each for name, each in state.items() if isinstance(each, Tensor) and name not in bounds}
