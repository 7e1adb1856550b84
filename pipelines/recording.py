"""The gradient of a loss: computed by autograd, or recorded once and replayed without it."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx

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
        layout: list[Any] = []

        def compute(*inputs: Tensor) -> tuple[Tensor, ...]:
            batch = TensorDict(batch_size=minibatch.batch_size)
            for key, entry in zip(self.keys, inputs, strict=True):
                batch.set(key, entry)
            gradient, terms = _differentiate(self.loss, self.parameters, batch)
            layout[:] = [[each is not None for each in gradient], list(terms)]
            return (*[each for each in gradient if each is not None], *terms.values())

        operations = _trace(compute, entries)
        used, names = layout
        replay = torch.compile(operations) if self.execution == "compiled" else _script(operations, entries)

        def recording(*inputs: Tensor) -> Gradient:
            with torch.no_grad():
                outputs = iter(replay(*inputs))
            return [next(outputs) if each else None for each in used], dict(zip(names, outputs, strict=True))

        return recording


def _trace(compute: Callable[..., tuple[Tensor, ...]], entries: list[Tensor]) -> GraphModule:
    """The tensor operations of `compute`, without those that only autograd needs.

    Raises:
        ValueError: what is computed depends on the numbers in the batch, so that it cannot be replayed on another.
    """
    try:
        recorded = make_fx(compute)(*entries)
    except RuntimeError as error:
        raise ValueError(f"the loss cannot be recorded, leave its execution eager: {error}") from error
    graph = recorded.graph
    for node in list(graph.nodes):
        if torch.Tag.dynamic_output_shape in getattr(node.target, "tags", ()):
            raise ValueError(f"the loss uses {node.target}, whose shape depends on data; leave its execution eager")
        if node.target is torch.ops.aten.detach.default:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    graph.eliminate_dead_code()
    recorded.recompile()
    return recorded


def _script(operations: GraphModule, entries: list[Tensor]) -> Callable[..., Any]:
    """Run the operations without Python in between."""
    with warnings.catch_warnings(), torch.no_grad():
        # PyTorch keeps TorchScript and recommends torch.compile, which takes half a minute where this takes 10 ms
        warnings.filterwarnings("ignore", "`torch.jit.*` is deprecated", DeprecationWarning)
        for node in operations.graph.nodes:
            if any(isinstance(argument, list) and True in argument for argument in node.args):
                node.target, node.args = _with_constants(node)
        operations.recompile()
        script: Callable[..., Any] = torch.jit.trace(operations, tuple(entries), check_trace=False)
    return script


def _with_constants(node: Node) -> tuple[Callable[..., Any], tuple[Node, ...]]:
    """The operation with its constants written into it: PyTorch's tracer takes no list of flags."""
    tensors = [argument for argument in node.args if isinstance(argument, Node)]
    names = {tensor: f"x{index}" for index, tensor in enumerate(tensors)}
    arguments = ", ".join(names[each] if isinstance(each, Node) else repr(each) for each in node.args)
    signature = ", ".join(f"{name}: Tensor" for name in names.values())
    name = str(node.target).rpartition(".")[0]
    source = f"def call({signature}):\n    return torch.ops.{name}({arguments})\n"
    unit = torch.jit.CompilationUnit(source)

    def call(*inputs: Tensor) -> Any:
        return unit.call(*inputs)

    return call, tuple(names)
