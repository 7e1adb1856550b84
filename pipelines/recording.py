"""The gradient of a loss: computed by autograd, or recorded once and replayed without it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from tensordict import TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

Execution = Literal["eager", "recorded", "compiled"]
Gradient = tuple[list[Tensor | None], dict[str, Tensor]]
"""The gradient of each parameter, `None` where it takes no part; and the loss's entries by name, detached."""

_SIGHTS = 10
"""Minibatches of a shape before it is worth recording."""
_MOST = 4
"""Shapes that are recorded."""


def make_gradient(
    loss: nn.Module, parameters: Sequence[nn.Parameter], execution: Execution = "eager"
) -> Callable[[TensorDictBase], Gradient]:
    """A function from a minibatch to the gradient of the loss's `loss*` entries, summed.

    Args:
        loss: a loss module, ours or TorchRL's. To be recorded or compiled it must be a pure function of its `in_keys`
            and parameters, as ours are; what its numbers and flags are set to while it is recorded, they stay.
        parameters: to differentiate by.
        execution: `"eager"` is autograd at each call. `"recorded"` notes the tensor operations of loss and gradient
            when a shape of minibatch has come ten times, and from then on runs these alone: the same numbers to the
            bit, without what autograd, modules and TensorDict cost at each operation. `"compiled"` has PyTorch's
            compiler make code of them, which takes a while, and rounds differently.

    Raises:
        ValueError: an unknown `execution`.
    """
    if execution not in get_args(Execution):
        raise ValueError(f"execution is {execution!r}; allowed are {', '.join(map(repr, get_args(Execution)))}")
    if execution == "eager":
        return lambda minibatch: _differentiate(loss, parameters, minibatch)
    return _Recorder(loss, parameters, execution)


def _differentiate(loss: nn.Module, parameters: Sequence[nn.Parameter], minibatch: TensorDictBase) -> Gradient:
    terms = dict(loss(minibatch).items())
    total = [term for key, term in terms.items() if key.startswith("loss") and term.requires_grad]
    gradient = torch.autograd.grad(total, parameters, allow_unused=True)
    return list(gradient), {key: term.detach() for key, term in terms.items()}


class _Recorder:
    """See `make_gradient`."""

    def __init__(self, loss: nn.Module, parameters: Sequence[nn.Parameter], execution: Execution) -> None:
        self.loss, self.parameters, self.execution = loss, parameters, execution
        self.keys: list[NestedKey] = list(loss.in_keys)  # type: ignore[arg-type]
        self._seen: Counter[tuple[Any, ...]] = Counter()
        self._recordings: dict[tuple[Any, ...], Callable[..., Gradient]] = {}

    def __call__(self, minibatch: TensorDictBase) -> Gradient:
        entries = [minibatch.get(key, None) for key in self.keys]
        if any(entry is None for entry in entries):
            return _differentiate(self.loss, self.parameters, minibatch)
        kind = (*((entry.shape, entry.dtype) for entry in entries), self.loss.training)
        recording = self._recordings.get(kind)
        if recording is not None:
            return recording(*entries)
        self._seen[kind] += 1
        if self._seen[kind] == _SIGHTS and len(self._recordings) < _MOST:
            self._recordings[kind] = self._record(minibatch, entries)
        return _differentiate(self.loss, self.parameters, minibatch)

    def _record(self, minibatch: TensorDictBase, entries: list[Tensor]) -> Callable[..., Gradient]:
        with _Tape() as tape:
            gradient, terms = _differentiate(self.loss, self.parameters, minibatch)
        outputs = [*[each for each in gradient if each is not None], *terms.values()]
        replay = _compile(tape, entries, outputs) if self.execution == "compiled" else _script(tape, entries, outputs)
        used, names = [each is not None for each in gradient], list(terms)

        def recording(*inputs: Tensor) -> Gradient:
            with torch.no_grad():
                computed = iter(replay(*inputs))
            return [next(computed) if each else None for each in used], dict(zip(names, computed, strict=True))

        return recording


class _Tape(TorchDispatchMode):
    """Notes each tensor operation, autograd's included: what was called, with what, and what came of it.

    It holds every tensor that it saw, so that each can be known by its `id`.

    Raises:
        ValueError: an operation depends on the numbers in the batch, so that it cannot be replayed with others.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output} & set(function.tags):
            raise ValueError(f"the loss uses {function}, which depends on data; leave its execution eager")
        results = function(*args, **(kwargs or {}))
        self.operations.append((function, args, kwargs or {}, results))
        return results


Replay = Callable[..., Sequence[Tensor]]
"""From other tensors in the place of a tape's inputs to its outputs; parameters and constants are the same tensors."""


def _script(tape: _Tape, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Replay:
    """The tape in TorchScript, which runs without Python between the operations."""
    names = {id(tensor): f"x{index}" for index, tensor in enumerate(inputs)}
    constants: list[Tensor] = []

    def write(value: Any) -> str:
        if not isinstance(value, Tensor):
            return _literal(value, write)
        if id(value) not in names:
            names[id(value)] = f"c{len(constants)}"
            constants.append(value)
        return names[id(value)]

    lines = []
    for number, (function, args, kwargs, results) in enumerate(tape.operations):
        arguments = [*map(write, args), *(f"{key}={write(value)}" for key, value in kwargs.items())]
        made = results if isinstance(results, (tuple, list)) else [results]
        names.update({id(tensor): f"y{number}_{index}" for index, tensor in enumerate(made)})
        left = ", ".join(f"y{number}_{index}" for index in range(len(made)))
        lines.append(f"{left} = torch.ops.{function.overloadpacket}({', '.join(arguments)})")
    returned = ", ".join(map(write, outputs))
    taken = [f"{letter}{index}" for letter, each in (("x", inputs), ("c", constants)) for index in range(len(each))]
    signature = ", ".join(f"{name}: Tensor" for name in taken)
    source = "\n    ".join([f"def replay({signature}):", *lines, f"return ({returned},)"])
    function = torch.jit.CompilationUnit(f"{source}\n").replay
    return lambda *others: function(*others, *constants)


def _literal(value: Any, write: Callable[[Any], str]) -> str:
    """How TorchScript writes a constant."""
    if isinstance(value, (list, tuple)):
        text = f"[{', '.join(map(write, value))}]"
        return f"annotate(List[Optional[Tensor]], {text})" if any(each is None for each in value) else text
    if isinstance(value, float) and not math.isfinite(value):
        return f"float('{value}')"
    return f"torch.{value!r}" if isinstance(value, torch.device) else repr(value)


def _compile(tape: _Tape, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Replay:
    """The tape as PyTorch's compiler makes it."""

    def replay(*others: Tensor) -> tuple[Tensor, ...]:
        tensors = dict(zip(map(id, inputs), others, strict=True))

        def current(value: Any) -> Any:
            return tensors.get(id(value), value)

        for function, args, kwargs, results in tape.operations:
            fresh = function(*tree_map(current, args), **tree_map(current, kwargs))
            tensors.update(zip(map(id, tree_leaves(results)), tree_leaves(fresh), strict=True))
        return tuple(map(current, outputs))

    with torch.no_grad():
        return torch.compile(make_fx(replay)(*inputs))
