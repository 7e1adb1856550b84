"""What Python values are: whether they can change, which library they come from, and what a function reads."""

from __future__ import annotations

import argparse
import dis
import functools
import logging
import re
import sys
import threading
import types
import weakref
from collections.abc import Callable, Hashable, Sequence
from enum import Enum
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_LIBRARIES = ("torch", "torchrl", "tensordict", "rlpipe")
"""Packages, besides the standard library and installed ones, whose classes, functions and hooks do not change."""

_NUMBERS = (float, complex, np.generic)
_TORCH = (torch.dtype, torch.device, torch.layout, torch.memory_format)
_PLAIN = (int, str, bytes, type(None), Enum, range, type(...), np.dtype, *_TORCH, *_NUMBERS)
_DESCRIPTORS = (types.MemberDescriptorType, types.GetSetDescriptorType, types.ClassMethodDescriptorType)
BOUND = (types.BuiltinFunctionType, types.MethodWrapperType)
"""C functions, which may be bound to an object, such as a dict's `get`."""
_BUILTIN = (types.WrapperDescriptorType, types.MethodDescriptorType)
_LOCKS = (type(threading.Lock()), type(threading.RLock()))
_TYPES = (types.GenericAlias, types.UnionType, torch.finfo, torch.iinfo)
_OTHERS = (slice, types.ModuleType, re.Pattern, logging.Logger, weakref.ref, torch.Generator, *_TYPES)
FIXED = (*_OTHERS, *_LOCKS, *_DESCRIPTORS, *_BUILTIN)
"""Compared by identity. (What a `torch.Generator` draws is never recorded.)"""
_HEAP_TYPE = 1 << 9
_USUAL = Tensor.__torch_function__.__func__  # type: ignore[attr-defined]
WRAPPERS = (staticmethod, classmethod, property)


def is_usual(cls: type[Tensor]) -> bool:
    """Whether a tensor class does not override operations, so that a tape sees them all."""
    function: Any = cls.__torch_function__
    return function is torch._C._disabled_torch_function_impl or getattr(function, "__func__", None) is _USUAL


def getter(kind: Callable[..., Any], names: Sequence[str]) -> Callable[[Any], tuple[object, ...]]:
    # with a single name, `kind` would return the bare value
    return kind(*names) if len(names) > 1 else kind(*names, *names)


def is_plain(value: object) -> bool:
    """Whether a value is immutable, and defined by its type and what it equals."""
    return isinstance(value, _PLAIN) or (isinstance(value, tuple) and all(map(is_plain, value)))


def exact(value: Any) -> Hashable:
    """A key, equal only if a computation cannot tell values apart: 1, 1.0 and True differ, as do 0.0 and -0.0."""
    if isinstance(value, tuple):
        return type(value), tuple(map(exact, value))
    return type(value), repr(value) if isinstance(value, _NUMBERS) else value


def content_of(cell: types.CellType) -> tuple[object, ...]:
    try:
        return (cell.cell_contents,)
    except ValueError:
        # not assigned yet
        return ()


def of_library(value: Any) -> bool:
    """Whether a class, a function, or an object's class comes from a library."""
    named = value if hasattr(value, "__qualname__") else type(value)
    return is_library(str(named.__module__))


@functools.cache
def is_library(module: str) -> bool:
    file = _file_of(module)
    own = module.partition(".")[0] in (*_LIBRARIES, *sys.stdlib_module_names)
    return own or "site-packages" in file or "dist-packages" in file


def is_python(cls: type) -> bool:
    """Whether instances keep everything in `__dict__` and `__slots__`, and nothing in C."""
    return (
        cls is types.SimpleNamespace
        or all(
            base.__flags__ & _HEAP_TYPE
            and not _is_extension(base.__module__)
            # C classes that claim a Python module, such as functools.partial
            and not isinstance(vars(base).get("__new__"), types.BuiltinFunctionType)
            for base in cls.__mro__[:-1]
        )
    )


@functools.cache
def _is_extension(module: str) -> bool:
    return module in sys.builtin_module_names or _file_of(module).endswith((".so", ".pyd"))


def _file_of(module: str) -> str:
    return getattr(sys.modules.get(module), "__file__", None) or ""


def slots_of(cls: type) -> list[str]:
    slots = vars(cls).get("__slots__", ())
    return [each for each in ([slots] if isinstance(slots, str) else slots) if not each.startswith("__")]


@functools.cache
def arguments_of(code: types.CodeType, *operations: str) -> list[str]:
    """The arguments of bytecode operations, such as the names they load, in a function and functions inside it."""
    names = {each.argval for each in dis.get_instructions(code) if each.opname in operations}
    inner = [arguments_of(each, *operations) for each in code.co_consts if isinstance(each, types.CodeType)]
    return sorted({*names, *chain.from_iterable(inner)})


@functools.cache
def names_of(code: types.CodeType) -> list[str]:
    """Names of attributes that a function, and functions inside it, read."""
    inner = [names_of(each) for each in code.co_consts if isinstance(each, types.CodeType)]
    return sorted({*code.co_names, *chain.from_iterable(inner)})


def may_change(value: object) -> bool:
    """Whether a global variable's content is watched; of others, such as modules, only the identity is."""
    if isinstance(value, (Tensor, nn.Module, types.MethodType, types.SimpleNamespace, argparse.Namespace)):
        return True
    if isinstance(value, (types.FunctionType, type)):
        return not of_library(value)
    if is_python(type(value)):
        return not of_library(type(value))
    # C objects: iterators, generators and thread locals hold something, NumPy's functions do not
    return not isinstance(value, np.ufunc) and not (hasattr(value, "__qualname__") and of_library(value))
