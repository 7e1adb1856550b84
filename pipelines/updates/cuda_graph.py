"""CUDA graphs: many operations on a GPU launched as one, where their launches take longer than they do."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rlpipe.errors import TrainingError

Function = Callable[..., Sequence[Tensor]]
"""From tensors to tensors."""
# as many as PyTorch's own helper takes
_WARM_UP = 3


def graphed(function: Function, inputs: Sequence[Tensor], state: Sequence[Tensor] = ()) -> Function:
    """The same function, captured once as a CUDA graph and then launched as a whole.

    What it is given is copied into the tensors that the graph reads, and what it returns is a copy of those that the
    graph writes, so that nothing of a launch is overwritten by the next.

    Args:
        function: operations on the GPU, always the same ones, without autograd. Beside its arguments it may read
            tensors that stay where they are in memory, such as parameters, at each launch anew.
        inputs: arguments to capture it with; later ones have their shapes and types.
        state: what it may write into; capturing leaves it as it is.

    Raises:
        TrainingError: it does what no CUDA graph can.
    """
    fixed = [each.clone() for each in inputs]
    try:
        _warm_up(function, fixed, state)
        graph = torch.cuda.CUDAGraph()
        # threads of others, such as loggers', may go on meanwhile
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            outputs = list(function(*fixed))
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        # the end of a capture that failed has an error of its own
        if isinstance(error.__context__, torch.OutOfMemoryError):
            raise error.__context__ from None
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise TrainingError(f"the update cannot be a CUDA graph: {reason}; go without --cuda-graphs") from error

    def launch(*others: Tensor) -> list[Tensor]:
        torch._foreach_copy_(fixed, list(others))
        graph.replay()
        copies = [torch.empty_like(each) for each in outputs]
        torch._foreach_copy_(copies, outputs)
        return copies

    return launch


def _warm_up(function: Function, inputs: Sequence[Tensor], state: Sequence[Tensor]) -> None:
    """Let libraries set themselves up, which they cannot while they are captured; on another stream, as CUDA asks."""
    kept = [each.clone() for each in state]
    now, aside = torch.cuda.current_stream(), torch.cuda.Stream()
    aside.wait_stream(now)
    with torch.random.fork_rng(devices=[torch.cuda.current_device()]), torch.cuda.stream(aside):
        for _ in range(_WARM_UP):
            function(*inputs)
    now.wait_stream(aside)
    for each, before in zip(state, kept, strict=True):
        each.copy_(before)
