"""What a loss is set to: its modules, their attributes, and all that these hold; and whether any of it has changed."""

from __future__ import annotations

import dis
import functools
import logging
import re
import sys
import threading
import types
import weakref
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence, Sized
from enum import Enum
from itertools import chain
from operator import attrgetter, is_, itemgetter
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn

_MOST = 4_000
"""Values that are watched; with more, looking at all of them takes longer than a recording saves."""
_MOST_BYTES = 4_096
"""Of a NumPy array, whose numbers are compared one by one."""
_LIBRARIES = ("torch", "torchrl", "tensordict", "rlpipe", "numpy", "gymnasium")
"""Packages whose classes, functions and hooks stay what they are."""

_NUMBERS = (float, complex, np.generic)
_PLAIN = (int, str, bytes, type(None), Enum, range, type(...), torch.dtype, torch.device, torch.layout, *_NUMBERS)
_PLAIN += (torch.memory_format, np.dtype)
_FIXED = (type, types.ModuleType, types.BuiltinFunctionType, torch.Generator, re.Pattern, logging.Logger)
_FIXED += (weakref.ref, type(threading.Lock()), type(threading.RLock()), types.MethodWrapperType, types.WrapperDescriptorType, types.MethodDescriptorType)
"""Known by which one they are. What a `torch.Generator` draws cannot be recorded at all."""
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_IGNORED = {"_abc_impl", "_non_persistent_buffers_set", *(name for name in vars(nn.Module()) if "hook" in name)}
_TENSOR = attrgetter("requires_grad", "dtype", "device", "shape")
_TENSOR_HOOKS = attrgetter("_backward_hooks")


class Watch:
    """All that `roots` hold, looked at again and again: modules, lists, dicts, objects, functions; and their tensors.

    Args:
        roots: a loss, and what else it is computed by.
        addresses: watch where tensors are in memory, too.
    """

    def __init__(self, roots: Sequence[object], addresses: bool = False) -> None:
        self.reason = ""
        """Why it cannot be watched; empty if it can."""
        self.tensors: list[Tensor] = []
        self._slots: list[tuple[Callable[[Any], Iterable[object]], Any]] = []
        self._objects: list[object] = []
        self._iterables: list[Iterable[object]] = []
        self._sized: list[Sized] = []
        self._empty: list[Sized] = []
        self._arrays: list[np.ndarray[Any, Any]] = []
        # all that was seen, held so that each keeps its `id`
        self._seen: dict[int, object] = {}
        self._pending: list[tuple[object, str]] = [(root, type(root).__name__) for root in roots]
        while self._pending and len(self._seen) < _MOST:
            self._add(*self._pending.pop())
        if self._pending:
            self._refuse(f"{type(roots[0]).__name__} holds more than {_MOST} things, too many to watch")
        self._lengths = list(map(len, self._sized))
        self._values = self._read()
        self._plain = [index for index, value in enumerate(self._values) if _is_plain(value)]
        self._numbers = tuple(_exact(self._values[index]) for index in self._plain)
        self._addresses = self._where() if addresses else None
        self._contents = [array.tobytes() for array in self._arrays]

    def state(self) -> Hashable | None:
        """What the plain values among them are set to, numbers and names; `None` if anything else is another now."""
        try:
            values = self._read()
        except (KeyError, AttributeError, ValueError, RuntimeError):
            return None
        if any(self._empty) or self._lengths != list(map(len, self._sized)) or len(values) != len(self._values):
            return None
        if self._addresses is not None and self._addresses != self._where():
            return None
        if self._arrays and self._contents != [array.tobytes() for array in self._arrays]:
            return None
        if not all(map(is_, values, self._values)) and not self._follow(values):
            return None
        tensors = self.tensors
        return self._numbers, tuple(map(_TENSOR, tensors)), tuple(map(Tensor.stride, tensors))

    def has_tensor_hooks(self) -> bool:
        """Whether any tensor has hooks, which autograd calls."""
        return any(map(_TENSOR_HOOKS, self.tensors))

    def _follow(self, values: list[object]) -> bool:
        """Take note of other plain values in the place of plain ones; whether no others have changed."""
        changed = [index for index, (new, old) in enumerate(zip(values, self._values, strict=True)) if new is not old]
        if not all(_is_plain(values[index]) and _is_plain(self._values[index]) for index in changed):
            return False
        self._values = values
        self._numbers = tuple(_exact(values[index]) for index in self._plain)
        return True

    def _read(self) -> list[object]:
        values: list[object] = list(map(type, self._objects))
        values += chain.from_iterable(self._iterables)
        for getter, source in self._slots:
            values += getter(source)
        return values

    def _where(self) -> list[int]:
        return list(map(Tensor.data_ptr, self.tensors))

    def _refuse(self, reason: str) -> None:
        self.reason = self.reason or reason

    def _add(self, value: object, name: str) -> None:
        if id(value) in self._seen or _is_plain(value) or isinstance(value, _FIXED):
            return
        self._seen[id(value)] = value
        if isinstance(value, Tensor):
            self._add_tensor(value, name)
        elif isinstance(value, nn.Module):
            self._add_module(value, name)
        elif type(value) is TensorDict:
            self._add_dict(value._tensordict, name)
            self._add_names(vars(value), ("_batch_size", "_device"), name)
        elif isinstance(value, np.ndarray):
            self._add_array(value, name)
        elif isinstance(value, (types.FunctionType, types.MethodType, functools.partial, *_WRAPPERS)):
            self._add_callable(value, name)
        elif isinstance(value, (list, tuple, set, frozenset, deque, dict)):
            self._add_holder(value, name)
        elif _is_python(type(value)) and not isinstance(value, TensorDictBase):
            self._add_object(value, name)
        else:
            self._refuse(f"{name} is a {type(value).__name__}, whose content cannot be watched")

    def _add_tensor(self, tensor: Tensor, name: str) -> None:
        self.tensors.append(tensor)
        if tensor.grad_fn is not None:
            self._refuse(f"{name} is a tensor with a graph of its own")
        if vars(tensor):
            self._add_dict(vars(tensor), name)

    def _add_module(self, module: nn.Module, name: str) -> None:
        if isinstance(module, torch.jit.ScriptModule):
            self._refuse(f"{name} is a ScriptModule, whose content cannot be watched")
            return
        for kind in _HOOKS:
            hooks = vars(module)[kind]
            if any(not _of_library(hook) for hook in hooks.values()):
                self._refuse(f"{name} has hooks, which may do anything")
            self._add_dict(hooks, name)
        for kind in ("_parameters", "_buffers", "_modules"):
            self._add_dict(vars(module)[kind], name, ordered=kind == "_modules")
        own = vars(module)
        self._sized.append(own)
        self._add_names(own, [each for each in own if each not in _IGNORED], name)
        self._add_class(module, name)

    def _add_object(self, value: object, name: str) -> None:
        own = getattr(value, "__dict__", {})
        self._sized.append(own)
        self._add_names(own, list(own), name)
        slots = [each for cls in type(value).__mro__ for each in _slots_of(cls) if hasattr(value, each)]
        if slots:
            self._slots.append((_getter(attrgetter, slots), value))
            self._pending += [(getattr(value, each), f"{name}.{each}") for each in slots]
        self._add_class(value, name)

    def _add_class(self, value: object, name: str) -> None:
        """The class of an object, and what users' classes define."""
        self._objects.append(value)
        for cls in type(value).__mro__:
            if id(cls) not in self._seen and not _of_library(cls):
                self._seen[id(cls)] = cls
                own = vars(cls)
                self._sized.append(own)
                names = [each for each, held in own.items() if each[:2] != "__" or isinstance(held, types.FunctionType)]
                self._add_names(own, [each for each in names if each not in _IGNORED], cls.__name__)

    def _add_names(self, holder: Any, names: Sequence[str], name: str) -> None:
        if names:
            self._slots.append((_getter(itemgetter, names), holder))
            self._pending += [(holder[each], f"{name}.{each}") for each in names]

    def _add_dict(self, holder: Any, name: str, ordered: bool = False) -> None:
        self._seen[id(holder)] = holder
        if not holder:
            self._empty.append(holder)
            return
        self._sized.append(holder)
        if ordered:
            self._iterables.append(holder)
        self._add_names(holder, list(holder), name)

    def _add_holder(self, holder: Any, name: str) -> None:
        if not isinstance(holder, (tuple, frozenset)):
            self._sized.append(holder)
            self._iterables.append(holder)
        self._pending += [(each, f"{name}[{index}]") for index, each in enumerate(holder)]
        if isinstance(holder, dict):
            self._iterables.append(holder.values())
            self._pending += [(each, f"{name}[{key!r}]") for key, each in holder.items()]
        if hasattr(holder, "__dict__"):
            self._add_object(holder, name)

    def _add_array(self, array: np.ndarray[Any, Any], name: str) -> None:
        self._arrays.append(array)
        if array.nbytes > _MOST_BYTES or array.dtype.hasobject:
            self._refuse(f"{name} is an array of {array.nbytes} bytes, too many to watch")

    def _add_callable(self, function: Any, name: str) -> None:
        """A function, with what it closes over, its defaults, and the global variables that it reads by their name."""
        inner = [getattr(function, each, None) for each in ("__func__", "__self__", "fget", "func", "args", "keywords")]
        self._pending += [(each, name) for each in inner if each is not None and not isinstance(each, type)]
        if not isinstance(function, types.FunctionType) or _of_library(function):
            return
        for cell in function.__closure__ or ():
            self._slots.append((_content_of, cell))
            self._pending += [(each, name) for each in _content_of(cell)]
        self._slots.append((attrgetter("__code__", "__defaults__", "__kwdefaults__"), function))
        self._pending += [(each, name) for each in (function.__defaults__, function.__kwdefaults__)]
        scope = function.__globals__
        read = [each for each in _globals_of(function.__code__) if each in scope]
        if read:
            self._slots.append((_getter(itemgetter, read), scope))
        self._pending += [(scope[each], f"the global {each}") for each in read if _may_change(scope[each])]


_WRAPPERS = (staticmethod, classmethod, property)


def _getter(kind: Callable[..., Any], names: Sequence[str]) -> Callable[[Any], tuple[object, ...]]:
    # one name alone would give the value itself
    return kind(*names) if len(names) > 1 else kind(*names, *names)


def _is_plain(value: object) -> bool:
    """Whether a value cannot change, and is known by its type and what it is equal to."""
    return isinstance(value, _PLAIN) or (isinstance(value, tuple) and all(map(_is_plain, value)))


def _exact(value: Any) -> Hashable:
    """Equal for values that a computation cannot tell apart: not for 1 and 1.0 and True, not for 0.0 and -0.0."""
    if isinstance(value, tuple):
        return type(value), tuple(map(_exact, value))
    return type(value), repr(value) if isinstance(value, _NUMBERS) else value


def _content_of(cell: types.CellType) -> tuple[object, ...]:
    try:
        return (cell.cell_contents,)
    except ValueError:
        # not assigned yet
        return ()


def _of_library(value: Any) -> bool:
    """Whether a class, function or object is one that a library brings along."""
    named = value if hasattr(value, "__qualname__") else type(value)
    return str(named.__module__).partition(".")[0] in (*_LIBRARIES, *sys.stdlib_module_names)


def _is_python(cls: type) -> bool:
    """Whether all that its instances hold is in their `__dict__` and `__slots__`; others keep theirs in C."""
    return all(base.__flags__ & _HEAP_TYPE and not _is_extension(base.__module__) for base in cls.__mro__[:-1])


_HEAP_TYPE = 1 << 9


@functools.cache
def _is_extension(module: str) -> bool:
    file = getattr(sys.modules.get(module), "__file__", None) or ""
    return module in sys.builtin_module_names or file.endswith((".so", ".pyd"))


def _slots_of(cls: type) -> list[str]:
    slots = vars(cls).get("__slots__", ())
    return [each for each in ([slots] if isinstance(slots, str) else slots) if not each.startswith("__")]


@functools.cache
def _globals_of(code: types.CodeType) -> list[str]:
    """Names of the global variables that a function, and those that it defines, read."""
    names = {each.argval for each in dis.get_instructions(code) if each.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            names.update(_globals_of(inner))
    return sorted(names)


def _may_change(value: object) -> bool:
    """Whether a global variable's content is watched too; of others, such as modules, only which one it is."""
    if isinstance(value, types.FunctionType):
        return not _of_library(value)
    return isinstance(value, (Tensor, nn.Module, list, dict, tuple, set, np.ndarray))
