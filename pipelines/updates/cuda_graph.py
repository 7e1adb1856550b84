"""CUDA graphs: many short operations on a GPU launched as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rlpipe.errors import TrainingError, first_line

Function = Callable[..., Sequence[Tensor]]
"""From tensors to tensors."""
# as many as PyTorch's own helper runs
_WARM_UP = 3


def graphed(function: Function, inputs: Sequence[Tensor], state: Sequence[Tensor] = ()) -> Function:
    """A function captured once as a CUDA graph, and then launched as a whole.

    Arguments are copied into the tensors that the graph reads, and results are copies of those that it writes, so that
    no launch overwrites the results of another.

    Args:
        function: runs always the same operations on the GPU, without autograd. Besides its arguments it may read
            tensors that keep their place in memory, such as parameters.
        inputs: arguments to capture it with; later ones have the same shapes and types.
        state: tensors that it may write into; capturing does not change them.

    Raises:
        TrainingError: the function does something that a CUDA graph cannot.
    """
    fixed = [each.clone() for each in inputs]
    try:
        _warm_up(function, fixed, state)
        graph = torch.cuda.CUDAGraph()
        # other threads, such as loggers', may use the GPU in the meantime
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            outputs = list(function(*fixed))
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        # ending a failed capture raises another error
        if isinstance(error.__context__, torch.OutOfMemoryError):
            raise error.__context__ from None
        raise TrainingError(f"the update cannot be a CUDA graph: {first_line(error)}; omit --cuda-graphs") from error

    def launch(*others: Tensor) -> list[Tensor]:
        torch._foreach_copy_(fixed, list(others))
        graph.replay()
        copies = [torch.empty_like(each) for each in outputs]
        torch._foreach_copy_(copies, outputs)
        return copies

    return launch


def _warm_up(function: Function, inputs: Sequence[Tensor], state: Sequence[Tensor]) -> None:
    """Run the function on another stream, so that libraries initialise, which they cannot do in a capture."""
    kept = [each.clone() for each in state]
    now, aside = torch.cuda.current_stream(), torch.cuda.Stream()
    aside.wait_stream(now)
    with torch.random.fork_rng(devices=[torch.cuda.current_device()]), torch.cuda.stream(aside):
        for _ in range(_WARM_UP):
            function(*inputs)
    now.wait_stream(aside)
    for each, before in zip(state, kept, strict=True):
        each.copy_(before)
