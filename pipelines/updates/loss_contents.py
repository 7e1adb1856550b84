"""Everything that a loss holds: its modules, their attributes, and what these hold in turn."""

from __future__ import annotations

import functools
import sys
import types
from collections import deque
from collections.abc import Callable, Iterable, Sequence, Sized
from enum import Enum
from operator import attrgetter, itemgetter
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from rlpipe.pipelines.updates.introspection import (
    BOUND,
    FIXED,
    WRAPPERS,
    arguments_of,
    content_of,
    getter,
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
"""Values that are watched; to compare more takes longer than a recording saves."""
_MOST_BYTES = 4_096
"""Of a NumPy array, whose bytes are compared."""
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_IGNORED = {"_abc_impl", "_non_persistent_buffers_set", *(name for name in vars(nn.Module()) if "hook" in name)}


class LossContents:
    """The places where everything that `roots` hold is found: modules, containers, objects, functions and tensors."""

    def __init__(self, roots: Sequence[object]) -> None:
        self.reason = ""
        """Why it cannot be watched; empty if it can."""
        self.tensors: list[Tensor] = []
        self.slots: list[tuple[Callable[[Any], Iterable[object]], Any]] = []
        """Functions that read values, and what they read from."""
        self.objects: list[object] = []
        self.classes: list[type[nn.Module]] = []
        self.iterables: list[Iterable[object]] = []
        self.sized: list[Sized] = []
        self.empty: list[Sized] = []
        self.arrays: list[np.ndarray[Any, Any]] = []
        # all that was found, kept so that each `id` stays unique
        self.seen: dict[int, object] = {}
        self.modules: set[tuple[int, tuple[str, ...]]] = set()
        self.pending: list[tuple[object, str]] = [(root, type(root).__name__) for root in roots]
        while self.pending and len(self.seen) < _MOST:
            self._add(*self.pending.pop())
        if self.pending:
            self.refuse(f"{type(roots[0]).__name__} holds more than {_MOST} things, too many to watch")

    def refuse(self, reason: str) -> None:
        """Note why the contents cannot be watched; the first reason counts."""
        self.reason = self.reason or reason

    def _add(self, value: object, name: str) -> None:
        if id(value) in self.seen or isinstance(value, FIXED):
            return
        if is_plain(value):
            # a number or tuple of a custom class may have attributes
            if hasattr(value, "__dict__"):
                self.add_dict(vars(value), name)
            return
        self.seen[id(value)] = value
        if isinstance(value, type):
            _add_type(self, value)
        elif isinstance(value, Tensor):
            self._add_tensor(value, name)
        elif isinstance(value, nn.Module):
            self._add_module(value, name)
        elif type(value) is TensorDict:
            self.add_dict(vars(value)["_tensordict"], name)
            self.add_names(vars(value), ("_batch_size", "_device"), name)
        elif isinstance(value, np.ndarray):
            self._add_array(value, name)
        elif isinstance(value, (types.FunctionType, types.MethodType, *BOUND, functools.partial, *WRAPPERS)):
            _add_callable(self, value, name)
        elif isinstance(value, (list, tuple, set, frozenset, deque, dict)):
            self._add_holder(value, name)
        elif is_python(type(value)) and not isinstance(value, TensorDictBase):
            self._add_object(value, name)
        else:
            self.refuse(f"{name} is a {type(value).__name__}, whose content cannot be watched")

    def _add_tensor(self, tensor: Tensor, name: str) -> None:
        if is_lazy(tensor) or tensor.layout is not torch.strided or tensor.is_nested or not is_usual(type(tensor)):
            self.refuse(f"{name} is a {type(tensor).__name__} of a kind that is not recorded")
            return
        self.tensors.append(tensor)
        if tensor.grad_fn is not None:
            self.refuse(f"{name} is a tensor with its own graph")
        if vars(tensor):
            self.add_dict(vars(tensor), name)

    def _add_module(self, module: nn.Module, name: str) -> None:
        # by name, because PyTorch may give TorchScript up
        scripted = any(each.__name__ == "ScriptModule" for each in type(module).__mro__)
        if scripted or module._compiled_call_impl is not None:
            self.refuse(f"{name} is compiled, so that its content cannot be watched")
            return
        for kind in _HOOKS:
            hooks = vars(module)[kind]
            if any(not of_library(hook) for hook in hooks.values()):
                self.refuse(f"{name} has hooks, which may do anything")
            self.add_dict(hooks, name)
        for kind in ("_parameters", "_buffers", "_modules"):
            self.add_dict(vars(module)[kind], name, ordered=kind == "_modules")
        own = vars(module)
        self.sized.append(own)
        self.add_names(own, [each for each in own if each not in _IGNORED], name)
        self._add_class(module)

    def _add_object(self, value: object, name: str) -> None:
        own = getattr(value, "__dict__", {})
        self.sized.append(own)
        self.add_names(own, list(own), name)
        slots = [each for cls in type(value).__mro__ for each in slots_of(cls)]
        if slots:
            held = _held_in(slots, value)
            self.slots.append((functools.partial(_held_in, slots) if ... in held else getter(attrgetter, slots), value))
            self.pending += [(each, f"{name}.{slot}") for slot, each in zip(slots, held, strict=True)]
        self._add_class(value)

    def _add_class(self, value: object) -> None:
        """The class of an object, and what custom classes define."""
        self.objects.append(value)
        self.pending += [(cls, cls.__name__) for cls in type(value).__mro__]

    def add_names(self, holder: Any, names: Sequence[str], name: str) -> None:
        if names:
            self.slots.append((getter(itemgetter, names), holder))
            self.pending += [(holder[each], f"{name}.{each}") for each in names]

    def add_dict(self, holder: Any, name: str, ordered: bool = False) -> None:
        self.seen[id(holder)] = holder
        if not holder:
            self.empty.append(holder)
            return
        self.sized.append(holder)
        if ordered:
            self.iterables.append(holder)
        self.add_names(holder, list(holder), name)

    def _add_holder(self, holder: Any, name: str) -> None:
        if not isinstance(holder, (tuple, frozenset)):
            self.sized.append(holder)
            self.iterables.append(holder)
        self.pending += [(each, f"an entry of {name}") for each in holder]
        if isinstance(holder, dict):
            self.iterables.append(holder.values())
            self.pending += [(each, f"an entry of {name}") for each in holder.values()]
        if hasattr(holder, "__dict__"):
            self._add_object(holder, name)

    def _add_array(self, array: np.ndarray[Any, Any], name: str) -> None:
        self.arrays.append(array)
        if array.nbytes > _MOST_BYTES or array.dtype.hasobject:
            self.refuse(f"{name} is an array of {array.nbytes} bytes, too many to watch")


def _add_type(contents: LossContents, cls: type) -> None:
    if issubclass(cls, nn.Module):
        contents.classes.append(cls)
    if not of_library(cls) and not issubclass(cls, Enum):
        contents.pending += [(each, cls.__name__) for each in type(cls).__mro__]
        own = vars(cls)
        contents.sized.append(own)
        names = [each for each, held in own.items() if each[:2] != "__" or isinstance(held, types.FunctionType)]
        contents.add_names(own, [each for each in names if each not in _IGNORED], cls.__name__)


def _add_callable(contents: LossContents, function: Any, name: str) -> None:
    """Add a function's closure, its defaults, and the global variables that it reads."""
    inner = [getattr(function, each, None) for each in ("__func__", "__self__", "fget", "func", "args", "keywords")]
    contents.pending += [(each, name) for each in inner if each is not None and not isinstance(each, type)]
    if not isinstance(function, types.FunctionType) or of_library(function):
        return
    for cell in function.__closure__ or ():
        contents.slots.append((content_of, cell))
        contents.pending += [(each, name) for each in content_of(cell)]
    contents.slots.append((attrgetter("__code__", "__defaults__", "__kwdefaults__"), function))
    contents.add_dict(vars(function), name)
    contents.pending += [(each, name) for each in (function.__defaults__, function.__kwdefaults__)]
    scope = function.__globals__
    names = arguments_of(function.__code__, "LOAD_GLOBAL", "LOAD_NAME")
    if {"globals", "eval", "exec"}.intersection(names):
        contents.refuse(f"{name} calls globals, eval or exec, which may read anything")
    read = [each for each in names if each in scope]
    if read:
        contents.slots.append((getter(itemgetter, read), scope))
    contents.pending += [(scope[each], f"the global {each}") for each in read if may_change(scope[each])]
    names = names_of(function.__code__)
    for module in (scope[each] for each in read if isinstance(scope[each], types.ModuleType)):
        _add_attributes(contents, module, names)
    for module in arguments_of(function.__code__, "IMPORT_NAME"):
        # `import a.b` gives the function `a`
        for each in {module, module.partition(".")[0]} & sys.modules.keys():
            _add_attributes(contents, sys.modules[each], names)


def _add_attributes(contents: LossContents, module: types.ModuleType, names: Sequence[str]) -> None:
    """Add what a function may read from a module, and from modules inside it."""
    if is_library(module.__name__) or (id(module), tuple(names)) in contents.modules:
        return
    contents.modules.add((id(module), tuple(names)))
    own = vars(module)
    contents.add_names(own, [each for each in names if each in own], module.__name__)
    for each in names:
        if isinstance(own.get(each), types.ModuleType):
            _add_attributes(contents, own[each], names)


def _held_in(slots: Sequence[str], value: object) -> tuple[object, ...]:
    # a slot that is not set yet gives `...`
    return tuple([getattr(value, each, ...) for each in slots])
