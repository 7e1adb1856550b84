"""Replays: a tape made into a function that runs only its operations, as TorchScript or as generated Python."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from rlpipe.pipelines.updates.tape import Tape

Replay = Callable[..., Sequence[Tensor]]
"""From new tensors for a tape's inputs to its outputs; parameters and constants stay the same tensors."""
_NEGATIVE_ZERO = "negative_zero"
_CONSTANTS = (int, float, str, torch.dtype, torch.device, torch.layout, torch.memory_format)


def make_replay(tape: Tape, inputs: Sequence[Tensor], outputs: Sequence[Tensor], state: Sequence[Tensor]) -> Replay:
    """The tape as TorchScript; as Python where TorchScript is missing, or cannot express or run an operation.

    `state` are tensors that it may write into; trying it out changes them, `inputs` and PyTorch's generator back.
    """
    if hasattr(getattr(torch, "jit", None), "CompilationUnit"):
        restore = snapshot([*state, *inputs])
        try:
            replay = script(tape, inputs, outputs)
            replay(*inputs)
        except RuntimeError:
            pass
        else:
            return replay
        finally:
            restore()
    return called(tape, inputs, outputs)


def script(tape: Tape, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Replay:
    """The tape as a TorchScript function, which runs without Python between operations.

    Raises:
        RuntimeError: TorchScript cannot express an operation.
    """
    lines, taken, constants = _write(tape, inputs, outputs, lambda each: f"torch.ops.{each.overloadpacket}", _literal)
    signature = ", ".join([*(f"{name}: Tensor" for name in taken), f"{_NEGATIVE_ZERO}: float"])
    function = torch.jit.CompilationUnit(_function(signature, lines)).replay

    def replay(*others: Tensor) -> Sequence[Tensor]:
        # TorchScript's own optimiser would merge matrix products, and round differently
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            return function(*others, *constants, -0.0)

    return below_autograd(replay)


def called(tape: Tape, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Replay:
    """The tape as a Python function that calls the operators one after the other."""
    names: dict[Any, str] = {}

    def name(value: Any) -> str:
        return names.setdefault(value, f"k{len(names)}")

    def literal(value: Any, write: Callable[[Any], str]) -> str:
        if isinstance(value, (list, tuple)):
            return f"[{', '.join(map(write, value))}]"
        plain = isinstance(value, (int, str)) or value is None or (isinstance(value, float) and math.isfinite(value))
        return repr(value) if plain else name(value)

    lines, taken, constants = _write(tape, inputs, outputs, lambda each: name(each._op), literal)
    source, held = _function(", ".join(taken), lines), {each: value for value, each in names.items()}
    # the text consists of names that were made here, of numbers, and of quoted text
    exec(source, held)
    function = held["replay"]
    return below_autograd(lambda *others: function(*others, *constants))


def below_autograd(function: Replay) -> Replay:
    """The function, run at the level where a tape records: operations pass by autograd."""

    def replay(*others: Tensor) -> Sequence[Tensor]:
        with torch._C._AutoDispatchBelowAutograd():
            return function(*others)

    return replay


def _function(signature: str, lines: Sequence[str]) -> str:
    return "\n    ".join([f"def replay({signature}):", *lines]) + "\n"


def _write(
    tape: Tape,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    operation: Callable[[Any], str],
    literal: Callable[[Any, Callable[[Any], str]], str],
) -> tuple[list[str], list[str], list[Tensor]]:
    """The lines of a function's body, the names of its arguments, and the tensors to pass after its inputs."""
    names = {id(tensor): f"x{index}" for index, tensor in enumerate(inputs)}
    constants: list[Tensor] = []
    last = _last_uses(tape, outputs)

    def write(value: Any) -> str:
        if not isinstance(value, Tensor):
            return literal(_allowed(value), write)
        if id(value) not in names:
            names[id(value)] = f"c{len(constants)}"
            constants.append(value)
        return names[id(value)]

    lines = []
    for number, (function, args, kwargs, results) in enumerate(tape.operations):
        arguments = [*map(write, args), *(f"{key}={write(value)}" for key, value in kwargs.items())]
        several = isinstance(results, (tuple, list))
        made = results if several else [results]
        left = [f"y{number}_{index}" for index in range(len(made))]
        for index, each in enumerate(made):
            if isinstance(each, Tensor):
                # what is written into keeps its name
                left[index] = names.setdefault(id(each), left[index])
        to = f"{', '.join(left)}{',' if several else ''} = " if left else ""
        lines.append(f"{to}{operation(function)}({', '.join(arguments)})")
        if dead := [names[each] for each in last.get(number, ()) if names[each][0] == "y"]:
            lines.append(f"del {', '.join(dead)}")
    lines.append(f"return ({', '.join(map(write, outputs))},)")
    taken = [f"{letter}{index}" for letter, each in (("x", inputs), ("c", constants)) for index in range(len(each))]
    return lines, taken, constants


def _last_uses(tape: Tape, outputs: Sequence[Tensor]) -> dict[int, list[int]]:
    """The `id` of tensors that are not needed after an operation, by its number."""
    last: dict[int, int] = {}
    for number, (_, args, kwargs, results) in enumerate(tape.operations):
        last.update((id(each), number) for each in tree_leaves((args, kwargs, results)) if isinstance(each, Tensor))
    for each in outputs:
        last.pop(id(each), None)
    dead: dict[int, list[int]] = {}
    for identity, number in last.items():
        dead.setdefault(number, []).append(identity)
    return dead


def _allowed(value: Any) -> Any:
    if value is None or isinstance(value, (list, tuple, *_CONSTANTS)):
        return value
    raise ValueError(f"the loss uses a {type(value).__name__}, which cannot be recorded; leave its execution eager")


def _literal(value: Any, write: Callable[[Any], str]) -> str:
    """A constant in TorchScript's syntax."""
    if isinstance(value, (list, tuple)):
        text = f"[{', '.join(map(write, value))}]"
        return f"annotate(List[Optional[Tensor]], {text})" if any(each is None for each in value) else text
    if isinstance(value, float) and not math.isfinite(value):
        return f"float('{value}')"
    if isinstance(value, float) and not value and math.copysign(1.0, value) < 0:
        # an argument, because TorchScript merges equal constants, and 0.0 equals -0.0
        return _NEGATIVE_ZERO
    return f"torch.{value!r}" if isinstance(value, torch.device) else repr(value)


def snapshot(tensors: Sequence[Tensor]) -> Callable[[], None]:
    """A function that restores tensors, and PyTorch's generators, to what they are now."""
    kept = [each.detach().clone() for each in tensors]
    devices = sorted({each.get_device() for each in tensors if each.is_cuda})
    generator, others = torch.get_rng_state(), [torch.cuda.get_rng_state(each) for each in devices]

    def restore() -> None:
        for each, before in zip(tensors, kept, strict=True):
            # a view that repeats its elements cannot be written into, and nothing has done so
            if not any(size > 1 and not step for size, step in zip(each.shape, each.stride(), strict=True)):
                # not a change to what watches the tensor
                each.data.copy_(before)
        torch.set_rng_state(generator)
        for device, state in zip(devices, others, strict=True):
            torch.cuda.set_rng_state(state, device)

    return restore


def differ(one: Tensor | None, other: Tensor | None) -> bool:
    """Whether two tensors differ in any bit (so NaN equals NaN)."""
    if one is None or other is None:
        return one is not other
    if one.dtype != other.dtype or one.shape != other.shape:
        return True
    bits = [each.detach().reshape(-1).contiguous().view(torch.uint8) for each in (one, other)]
    return not torch.equal(*bits)
