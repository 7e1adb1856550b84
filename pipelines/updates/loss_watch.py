"""What a loss is set to: its modules, their attributes, and all that these hold; and whether any of it has changed."""

from __future__ import annotations

import functools
import sys
import types
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
from torch.nn.parameter import is_lazy

from rlpipe.pipelines.updates.watched_values import (
    BOUND,
    FIXED,
    WRAPPERS,
    content_of,
    exact,
    getter,
    globals_of,
    imports_of,
    is_library,
    is_plain,
    is_python,
    is_usual,
    may_change,
    names_of,
    of_library,
    slots_of,
)

_MOST = 4_000
"""Values that are watched; with more, looking at all of them takes longer than a recording saves."""
_MOST_BYTES = 4_096
"""Of a NumPy array, whose numbers are compared one by one."""
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_IGNORED = {"_abc_impl", "_non_persistent_buffers_set", *(name for name in vars(nn.Module()) if "hook" in name)}
_TENSOR = attrgetter("requires_grad", "dtype", "device", "shape")
_FORWARD = attrgetter("forward")
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
        self._classes: list[type[nn.Module]] = []
        self._iterables: list[Iterable[object]] = []
        self._sized: list[Sized] = []
        self._empty: list[Sized] = []
        self._arrays: list[np.ndarray[Any, Any]] = []
        # all that was seen, held so that each keeps its `id`
        self._seen: dict[int, object] = {}
        self._modules: set[tuple[int, tuple[str, ...]]] = set()
        self._pending: list[tuple[object, str]] = [(root, type(root).__name__) for root in roots]
        while self._pending and len(self._seen) < _MOST:
            self._add(*self._pending.pop())
        if self._pending:
            self._refuse(f"{type(roots[0]).__name__} holds more than {_MOST} things, too many to watch")
        self._lengths = list(map(len, self._sized))
        self._values = self._read()
        self._plain = [index for index, value in enumerate(self._values) if is_plain(value)]
        self._numbers = tuple(exact(self._values[index]) for index in self._plain)
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
        if not all(is_plain(values[index]) and is_plain(self._values[index]) for index in changed):
            return False
        self._values = values
        self._numbers = tuple(exact(values[index]) for index in self._plain)
        return True

    def _read(self) -> list[object]:
        values: list[object] = [*map(type, self._objects), *map(_FORWARD, self._classes)]
        values += chain.from_iterable(self._iterables)
        for look, source in self._slots:
            values += look(source)
        return values

    def _where(self) -> list[int]:
        return list(map(Tensor.data_ptr, self.tensors))

    def _refuse(self, reason: str) -> None:
        self.reason = self.reason or reason

    def _add(self, value: object, name: str) -> None:
        if id(value) in self._seen or isinstance(value, FIXED):
            return
        if is_plain(value):
            # a number or tuple of a user's class may have attributes
            if hasattr(value, "__dict__"):
                self._add_dict(vars(value), name)
            return
        self._seen[id(value)] = value
        if isinstance(value, type):
            self._add_type(value)
        elif isinstance(value, Tensor):
            self._add_tensor(value, name)
        elif isinstance(value, nn.Module):
            self._add_module(value, name)
        elif type(value) is TensorDict:
            self._add_dict(vars(value)["_tensordict"], name)
            self._add_names(vars(value), ("_batch_size", "_device"), name)
        elif isinstance(value, np.ndarray):
            self._add_array(value, name)
        elif isinstance(value, (types.FunctionType, types.MethodType, *BOUND, functools.partial, *WRAPPERS)):
            self._add_callable(value, name)
        elif isinstance(value, (list, tuple, set, frozenset, deque, dict)):
            self._add_holder(value, name)
        elif is_python(type(value)) and not isinstance(value, TensorDictBase):
            self._add_object(value, name)
        else:
            self._refuse(f"{name} is a {type(value).__name__}, whose content cannot be watched")

    def _add_tensor(self, tensor: Tensor, name: str) -> None:
        if is_lazy(tensor) or tensor.layout is not torch.strided or tensor.is_nested or not is_usual(type(tensor)):
            self._refuse(f"{name} is a {type(tensor).__name__} of a kind that is not recorded")
            return
        self.tensors.append(tensor)
        if tensor.grad_fn is not None:
            self._refuse(f"{name} is a tensor with a graph of its own")
        if vars(tensor):
            self._add_dict(vars(tensor), name)

    def _add_module(self, module: nn.Module, name: str) -> None:
        if isinstance(module, torch.jit.ScriptModule) or module._compiled_call_impl is not None:
            self._refuse(f"{name} is compiled, so that its content cannot be watched")
            return
        for kind in _HOOKS:
            hooks = vars(module)[kind]
            if any(not of_library(hook) for hook in hooks.values()):
                self._refuse(f"{name} has hooks, which may do anything")
            self._add_dict(hooks, name)
        for kind in ("_parameters", "_buffers", "_modules"):
            self._add_dict(vars(module)[kind], name, ordered=kind == "_modules")
        own = vars(module)
        self._sized.append(own)
        self._add_names(own, [each for each in own if each not in _IGNORED], name)
        self._add_class(module)

    def _add_object(self, value: object, name: str) -> None:
        own = getattr(value, "__dict__", {})
        self._sized.append(own)
        self._add_names(own, list(own), name)
        slots = [each for cls in type(value).__mro__ for each in slots_of(cls)]
        if slots:
            held = _held_in(slots, value)
            self._slots.append(
                (functools.partial(_held_in, slots) if ... in held else getter(attrgetter, slots), value)
            )
            self._pending += [(each, f"{name}.{slot}") for slot, each in zip(slots, held, strict=True)]
        self._add_class(value)

    def _add_class(self, value: object) -> None:
        """The class of an object, and what users' classes define."""
        self._objects.append(value)
        self._pending += [(cls, cls.__name__) for cls in type(value).__mro__]

    def _add_type(self, cls: type) -> None:
        if issubclass(cls, nn.Module):
            self._classes.append(cls)
        if not of_library(cls) and not issubclass(cls, Enum):
            self._pending += [(each, cls.__name__) for each in type(cls).__mro__]
            own = vars(cls)
            self._sized.append(own)
            names = [each for each, held in own.items() if each[:2] != "__" or isinstance(held, types.FunctionType)]
            self._add_names(own, [each for each in names if each not in _IGNORED], cls.__name__)

    def _add_names(self, holder: Any, names: Sequence[str], name: str) -> None:
        if names:
            self._slots.append((getter(itemgetter, names), holder))
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
        self._pending += [(each, f"an entry of {name}") for each in holder]
        if isinstance(holder, dict):
            self._iterables.append(holder.values())
            self._pending += [(each, f"an entry of {name}") for each in holder.values()]
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
        if not isinstance(function, types.FunctionType) or of_library(function):
            return
        for cell in function.__closure__ or ():
            self._slots.append((content_of, cell))
            self._pending += [(each, name) for each in content_of(cell)]
        self._slots.append((attrgetter("__code__", "__defaults__", "__kwdefaults__"), function))
        self._add_dict(vars(function), name)
        self._pending += [(each, name) for each in (function.__defaults__, function.__kwdefaults__)]
        scope = function.__globals__
        names = globals_of(function.__code__)
        if {"globals", "eval", "exec"}.intersection(names):
            self._refuse(f"{name} calls globals, eval or exec, which may read anything")
        read = [each for each in names if each in scope]
        if read:
            self._slots.append((getter(itemgetter, read), scope))
        self._pending += [(scope[each], f"the global {each}") for each in read if may_change(scope[each])]
        names = names_of(function.__code__)
        for module in (scope[each] for each in read if isinstance(scope[each], types.ModuleType)):
            self._add_attributes(module, names)
        for module in imports_of(function.__code__):
            # `import a.b` gives the function `a`
            for each in {module, module.partition(".")[0]} & sys.modules.keys():
                self._add_attributes(sys.modules[each], names)

    def _add_attributes(self, module: types.ModuleType, names: Sequence[str]) -> None:
        """What a function may read of a module, and of those that are in it."""
        if is_library(module.__name__) or (id(module), tuple(names)) in self._modules:
            return
        self._modules.add((id(module), tuple(names)))
        own = vars(module)
        self._add_names(own, [each for each in names if each in own], module.__name__)
        for each in names:
            if isinstance(own.get(each), types.ModuleType):
                self._add_attributes(own[each], names)


def _held_in(slots: Sequence[str], value: object) -> tuple[object, ...]:
    # one that is not set yet is `...`
    return tuple([getattr(value, each, ...) for each in slots])
