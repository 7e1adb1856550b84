"""The gradient of a loss: computed by autograd, or recorded once and replayed without it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Literal, get_args

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torchrl.envs.utils import exploration_type

from rlpipe.pipelines.graphs import graphed

Execution = Literal["eager", "recorded", "compiled", "graphed"]
"""How a gradient is computed, see `make_gradient`."""
Gradient = tuple[list[Tensor | None], dict[str, Tensor]]
"""The gradient of each parameter, `None` where it takes no part; and the loss's entries by name, detached."""

_SETTING = (int, float, str, Enum)
_REPEATS = 10
"""Minibatches of a kind before it is worth recording."""
_MOST_KINDS = 4
"""Kinds that are recorded."""
_MOST_OPERATIONS = 2_000
"""Operations from which on a recording takes longer to make than it can save."""


def make_gradient(
    loss: nn.Module, parameters: Sequence[nn.Parameter], execution: Execution = "eager"
) -> Callable[[TensorDictBase], Gradient]:
    """A function from a minibatch to the gradient of the loss's `loss*` entries, summed.

    Args:
        loss: a loss module, ours or TorchRL's. To be recorded or compiled it must be a pure function of its `in_keys`,
            parameters, buffers and modules' own numbers, as ours are, and write nothing into the minibatch. Numbers in
            lists or other objects stay what they were; draws of PyTorch's global generator are drawn anew each time.
        parameters: to differentiate by.
        execution: `"eager"` is autograd at each call. `"recorded"` notes the tensor operations of loss and gradient
            when a kind of minibatch (its shapes and types) has come ten times, and from then on runs these alone: the
            same numbers to the bit, without what autograd, modules and TensorDict cost at each operation. What the loss
            is set to may change (numbers, training mode, parameters of its modules); it is then recorded anew.
            `"compiled"` has PyTorch's compiler make code of the operations, which takes a while and rounds differently.
            `"graphed"` is `"recorded"`, and each recording a CUDA graph, launched as a whole; minibatches are on a GPU.

    Raises:
        ValueError: an unknown `execution`.
    """
    if execution not in get_args(Execution):
        raise ValueError(f"execution is {execution!r}; allowed are {', '.join(map(repr, get_args(Execution)))}")
    if execution == "eager":
        return lambda minibatch: _differentiate(loss, parameters, minibatch)
    return _Recorder(loss, parameters, execution)


def _differentiate(loss: nn.Module, parameters: Sequence[nn.Parameter], minibatch: TensorDictBase) -> Gradient:
    output = loss(minibatch)
    if not isinstance(output, TensorDictBase):
        raise TypeError(f"{type(loss).__name__} returns a {type(output).__name__}, expected a TensorDict of scalars")
    terms = dict(output.items())
    for key, term in terms.items():
        if key.startswith("loss") and term.numel() != 1:
            raise ValueError(f"{type(loss).__name__} returns {key!r} of shape {list(term.shape)}, expected a scalar")
    total = [term for key, term in terms.items() if key.startswith("loss") and term.requires_grad]
    gradient = torch.autograd.grad(total, parameters, allow_unused=True)
    return list(gradient), {key: term.detach() for key, term in terms.items()}


class _Recorder:
    """See `make_gradient`."""

    def __init__(self, loss: nn.Module, parameters: Sequence[nn.Parameter], execution: Execution) -> None:
        self.loss, self.parameters, self.execution = loss, parameters, execution
        self._graphed = execution == "graphed"
        if not hasattr(loss, "in_keys"):
            raise ValueError(f"{type(loss).__name__} has no in_keys, which name what it reads; without, leave it eager")
        self.keys: list[NestedKey] = list(loss.in_keys)  # type: ignore[arg-type]
        self._begin()

    def _begin(self) -> None:
        self._modules = list(self.loss.modules())
        holders = [holder for module in self._modules for holder in (module._parameters, module._buffers)]
        self._tensors = [(holder, name, tensor) for holder in holders for name, tensor in holder.items()]
        others = [vars(module) for module in self._modules if module is not self.loss]
        self._numbers = [(own, name) for own in others for name, value in own.items() if isinstance(value, _SETTING)]
        self._seen: Counter[tuple[Any, ...]] = Counter()
        self._recordings: dict[tuple[Any, ...], Callable[..., Gradient]] = {}
        self._addresses = self._where()

    def _where(self) -> list[int]:
        """Where the tensors are that a CUDA graph reads."""
        return [each.data_ptr() for *_, each in self._tensors if each is not None] if self._graphed else []

    def __call__(self, minibatch: TensorDictBase) -> Gradient:
        entries = [minibatch.get(key, None) for key in self.keys]
        if any(entry is None for entry in entries) or len(set(map(id, entries))) < len(entries):
            return _differentiate(self.loss, self.parameters, minibatch)
        if any(holder.get(name) is not tensor for holder, name, tensor in self._tensors) or (
            self._graphed and self._where() != self._addresses
        ):
            self._begin()
        kind = self._kind(entries)
        recording = self._recordings.get(kind)
        if recording is not None:
            return recording(*entries)
        self._seen[kind] += 1
        if self._seen[kind] == _REPEATS and len(self._recordings) < _MOST_KINDS:
            return self._record(kind, TensorDict(batch_size=minibatch.batch_size), entries)
        return _differentiate(self.loss, self.parameters, minibatch)

    def _kind(self, entries: Sequence[Tensor]) -> tuple[Any, ...]:
        """All that decides which operations there are."""
        return (
            *((entry.shape, entry.stride(), entry.dtype, entry.device) for entry in entries),
            *(own.get(name) for own, name in self._numbers),
            *(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in self._modules),
            *(value for value in vars(self.loss).values() if isinstance(value, _SETTING)),
            torch.is_autocast_enabled(entries[0].device.type),
            # of which the layers of a noisy network take note
            exploration_type(),
        )

    def _record(self, kind: tuple[Any, ...], batch: TensorDict, entries: list[Tensor]) -> Gradient:
        for key, entry in zip(self.keys, entries, strict=True):
            batch.set(key, entry)
        with _Tape() as tape:
            gradient, terms = _differentiate(self.loss, self.parameters, batch)
        if len(tape.operations) > _MOST_OPERATIONS:
            return gradient, terms
        outputs = [*[each for each in gradient if each is not None], *terms.values()]
        tape.check({id(tensor) for tensor in [*entries, *self.loss.parameters(), *self.loss.buffers()]})
        replay = _compile(tape, entries, outputs) if self.execution == "compiled" else _script(tape, entries, outputs)
        if self._graphed:
            tape.check_graph()
            with torch.no_grad(), torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
                replay = graphed(replay, entries, list(self.loss.buffers()))
        used, names = [each is not None for each in gradient], list(terms)

        def recording(*inputs: Tensor) -> Gradient:
            # TorchScript's own optimiser would merge matrix products, and round differently
            with torch.no_grad(), torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
                computed = iter(replay(*inputs))
            return [next(computed) if each else None for each in used], dict(zip(names, computed, strict=True))

        self._recordings[kind] = recording
        return gradient, terms


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
        if _depends_on_data(function, args):
            raise ValueError(f"the loss uses {function}, which depends on data; leave its execution eager")
        results = function(*args, **(kwargs or {}))
        self.operations.append((function, args, kwargs or {}, results))
        return results

    def check(self, known: set[int]) -> None:
        """Refuse a tensor that is neither `known`, nor made on the tape, nor a constant that the loss writes down.

        Raises:
            ValueError: there is one; replayed, it would stay what it was.
        """
        for function, args, kwargs, results in self.operations:
            for tensor in tree_leaves((args, kwargs)):
                constant = function is torch.ops.aten.lift_fresh.default
                if isinstance(tensor, Tensor) and id(tensor) not in known and not constant:
                    raise ValueError(
                        f"the loss reads a tensor of shape {list(tensor.shape)} that is neither an entry of its "
                        "in_keys, nor a parameter or buffer; leave its execution eager"
                    )
            known.update(map(id, tree_leaves(results)))

    def check_graph(self) -> None:
        """Refuse what no CUDA graph can do: copies between the host and the GPU.

        Raises:
            ValueError: there is one.
        """
        for function, args, _, results in self.operations:
            if function in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
                source = args[0 if function is torch.ops.aten._to_copy.default else 1]
                if source.device != results.device:
                    raise ValueError(
                        f"the loss copies a tensor of shape {list(source.shape)} from {source.device} to "
                        f"{results.device}, which a CUDA graph cannot; make it a buffer, or leave cuda_graphs out"
                    )


def _depends_on_data(function: Any, args: tuple[Any, ...]) -> bool:
    """Whether the operation's shape, or what Python does with its result, depends on numbers in the batch."""
    if function is torch.ops.aten.index.Tensor:
        return any(each is not None and each.dtype in (torch.bool, torch.uint8) for each in args[1])
    return bool({torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output} & set(function.tags))


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
        several = isinstance(results, (tuple, list))
        made = results if several else [results]
        names.update({id(tensor): f"y{number}_{index}" for index, tensor in enumerate(made)})
        left = ", ".join(f"y{number}_{index}" for index in range(len(made)))
        lines.append(f"{left}{',' if several else ''} = torch.ops.{function.overloadpacket}({', '.join(arguments)})")
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
    if isinstance(value, torch.device):
        return f"torch.{value!r}"
    if value is None or isinstance(value, (int, float, str, torch.dtype, torch.layout, torch.memory_format)):
        return repr(value)
    raise ValueError(f"the loss uses a {type(value).__name__}, which cannot be recorded; leave its execution eager")


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
