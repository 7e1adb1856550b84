"""A tape of tensor operations, recorded while they run."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_READS = (
    *("item", "tolist", "numpy", "__array__", "__dlpack__", "data_ptr", "storage", "untyped_storage", "_typed_storage"),
    *("__bool__", "__int__", "__float__", "__complex__", "__index__", "__contains__", "__repr__", "__format__"),
)
_PYTHON_READS = {getattr(Tensor, name) for name in _READS}
_FROM_PYTHON = {torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor}
"""They read tensors in a list number by number."""


class _Reads(TorchFunctionMode):
    """Refuses functions that read numbers out of tensors without an operation that a tape would see."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        lists = [each for each in args if isinstance(each, (list, tuple))] if function in _FROM_PYTHON else []
        indices = args[1:] if function in (torch.tensor_split, Tensor.tensor_split) else []
        if function in _PYTHON_READS or any(isinstance(each, Tensor) for each in tree_leaves([lists, indices])):
            raise ValueError(
                f"the loss uses {resolve_name(function)}, which depends on data; leave its execution eager"
            )
        return function(*args, **(kwargs or {}))


class Tape(TorchDispatchMode):
    """Records each tensor operation, autograd's included: the function, its arguments and its results.

    It keeps every tensor that it saw, so that each `id` stays unique. Python that reads a tensor's numbers, such as
    `tolist`, is not an operation, and is refused.

    Raises:
        ValueError: an operation depends on the numbers in the batch, so it cannot be replayed with others.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []
        self.constants: set[int] = set()
        """The `id` of tensors that the loss makes from literal numbers."""
        self.draws_elsewhere = False
        """Whether Python's or NumPy's generator drew in the meantime."""
        self._reads, self._generators = _Reads(), _generators()

    def __enter__(self) -> Tape:
        self._reads.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        self._reads.__exit__(*raised)
        self.draws_elsewhere = self._generators != _generators()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if _depends_on_data(function, args):
            raise ValueError(f"the loss uses {function}, which depends on data; leave its execution eager")
        if function is torch.ops.aten.lift_fresh.default:
            # a constant: copied, because the result may be written into, and each replay needs it unchanged
            self.constants.add(id(args[0]))
            function = torch.ops.aten.clone.default
        results = function(*args, **(kwargs or {}))
        self.operations.append((function, args, kwargs or {}, results))
        return results

    def writes_into(self, tensors: Iterable[Tensor]) -> list[Tensor]:
        """Those among `tensors` whose memory is written into."""
        written = {
            _memory(tensor)
            for function, args, kwargs, _ in self.operations
            if function._schema.is_mutable
            for tensor in _written(function, args, kwargs)
        }
        return [each for each in tensors if _memory(each) in written]

    def check(self, known: set[int]) -> None:
        """Refuse, by a `ValueError`, a tensor not `known` nor made on the tape, whose old value a replay would use."""
        known = known | self.constants
        for _, args, kwargs, results in self.operations:
            for tensor in tree_leaves((args, kwargs)):
                if isinstance(tensor, Tensor) and id(tensor) not in known:
                    raise ValueError(
                        f"the loss reads a tensor of shape {list(tensor.shape)} that is neither an entry of the "
                        "minibatch, nor held by the loss; leave its execution eager"
                    )
            known.update(map(id, tree_leaves(results)))

    def check_graph(self, overwritten: Sequence[Tensor]) -> None:
        """Refuse what a CUDA graph cannot do: copy between the host and the GPU, or write into the minibatch.

        A `ValueError` names it; `overwritten` are the entries of the minibatch that are changed in place.
        """
        if overwritten:
            raise ValueError(
                f"the loss changes an entry of shape {list(overwritten[0].shape)} in place, which a CUDA graph does to "
                "a copy of it; change a clone, or leave cuda_graphs out"
            )
        for function, args, _, results in self.operations:
            if function in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
                source = args[0 if function is torch.ops.aten._to_copy.default else 1]
                if source.device != results.device:
                    raise ValueError(
                        f"the loss copies a tensor of shape {list(source.shape)} from {source.device} to "
                        f"{results.device}, which a CUDA graph cannot; make it a buffer, or leave cuda_graphs out"
                    )


def _generators() -> tuple[Any, ...]:
    state: Any = np.random.get_state()  # noqa: NPY002
    return random.getstate(), state[0], state[1].tobytes(), *state[2:]


def share_memory(tensors: Sequence[Tensor]) -> bool:
    """Whether any two tensors share memory."""
    return len(set(map(_memory, tensors))) < len(tensors)


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _written(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """The arguments that an operation writes into."""
    declared = function._schema.arguments
    named = [(each, kwargs[each.name]) for each in declared if each.name in kwargs]
    given = [*zip(declared, args, strict=False), *named]
    leaves = tree_leaves([value for each, value in given if each.alias_info is not None and each.alias_info.is_write])
    return [each for each in leaves if isinstance(each, Tensor)]


def _depends_on_data(function: Any, args: tuple[Any, ...]) -> bool:
    """Whether the operation's shape, or what Python does with its result, depends on numbers in the batch."""
    if function is torch.ops.aten.index.Tensor:
        return any(each is not None and each.dtype in (torch.bool, torch.uint8) for each in args[1])
    return bool({torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output} & set(function.tags))
