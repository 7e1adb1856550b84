"""What values are, for who watches them: which cannot change, which are known, and what a function reads."""

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
"""Packages, beside Python's own and all that are installed, whose classes, functions and hooks stay what they are."""

_NUMBERS = (float, complex, np.generic)
_TORCH = (torch.dtype, torch.device, torch.layout, torch.memory_format)
_PLAIN = (int, str, bytes, type(None), Enum, range, type(...), np.dtype, *_TORCH, *_NUMBERS)
_DESCRIPTORS = (types.MemberDescriptorType, types.GetSetDescriptorType, types.ClassMethodDescriptorType)
BOUND = (types.BuiltinFunctionType, types.MethodWrapperType)
"""Functions of C, which may belong to an object, as the `get` of a dict does."""
_BUILTIN = (types.WrapperDescriptorType, types.MethodDescriptorType)
_LOCKS = (type(threading.Lock()), type(threading.RLock()))
_TYPES = (types.GenericAlias, types.UnionType, torch.finfo, torch.iinfo)
_OTHERS = (slice, types.ModuleType, re.Pattern, logging.Logger, weakref.ref, torch.Generator, *_TYPES)
FIXED = (*_OTHERS, *_LOCKS, *_DESCRIPTORS, *_BUILTIN)
"""Known by which one they are. What a `torch.Generator` draws cannot be recorded at all."""
_USUAL = Tensor.__torch_function__.__func__  # type: ignore[attr-defined]
WRAPPERS = (staticmethod, classmethod, property)


def is_usual(cls: type[Tensor]) -> bool:
    """Whether a class of tensors leaves it to operations what becomes of them, so that a tape sees it all."""
    function: Any = cls.__torch_function__
    return function is torch._C._disabled_torch_function_impl or getattr(function, "__func__", None) is _USUAL


def getter(kind: Callable[..., Any], names: Sequence[str]) -> Callable[[Any], tuple[object, ...]]:
    # one name alone would give the value itself
    return kind(*names) if len(names) > 1 else kind(*names, *names)


def is_plain(value: object) -> bool:
    """Whether a value cannot change, and is known by its type and what it is equal to."""
    return isinstance(value, _PLAIN) or (isinstance(value, tuple) and all(map(is_plain, value)))


def exact(value: Any) -> Hashable:
    """Equal for values that a computation cannot tell apart: not for 1 and 1.0 and True, not for 0.0 and -0.0."""
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
    """Whether a class, a function, or an object's class is one that a library brings along."""
    named = value if hasattr(value, "__qualname__") else type(value)
    return is_library(str(named.__module__))


@functools.cache
def is_library(module: str) -> bool:
    file = getattr(sys.modules.get(module), "__file__", None) or ""
    own = module.partition(".")[0] in (*_LIBRARIES, *sys.stdlib_module_names)
    return own or "site-packages" in file or "dist-packages" in file


def is_python(cls: type) -> bool:
    """Whether all that its instances hold is in their `__dict__` and `__slots__`; others keep theirs in C."""
    return (
        cls is types.SimpleNamespace
        or all(
            base.__flags__ & _HEAP_TYPE
            and not _is_extension(base.__module__)
            # those of C that name a Python module as theirs, such as functools.partial
            and not isinstance(vars(base).get("__new__"), types.BuiltinFunctionType)
            for base in cls.__mro__[:-1]
        )
    )


_HEAP_TYPE = 1 << 9


@functools.cache
def _is_extension(module: str) -> bool:
    file = getattr(sys.modules.get(module), "__file__", None) or ""
    return module in sys.builtin_module_names or file.endswith((".so", ".pyd"))


def slots_of(cls: type) -> list[str]:
    slots = vars(cls).get("__slots__", ())
    return [each for each in ([slots] if isinstance(slots, str) else slots) if not each.startswith("__")]


@functools.cache
def globals_of(code: types.CodeType) -> list[str]:
    """Names of the global variables that a function, and those that it defines, read."""
    names = {each.argval for each in dis.get_instructions(code) if each.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            names.update(globals_of(inner))
    return sorted(names)


@functools.cache
def imports_of(code: types.CodeType) -> list[str]:
    """Names of modules that a function, and those that it defines, import while they run."""
    names = {each.argval for each in dis.get_instructions(code) if each.opname == "IMPORT_NAME"}
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            names.update(imports_of(inner))
    return sorted(names)


@functools.cache
def names_of(code: types.CodeType) -> list[str]:
    """Names of attributes that a function, and those that it defines, read."""
    inner = [names_of(each) for each in code.co_consts if isinstance(each, types.CodeType)]
    return sorted({*code.co_names, *chain.from_iterable(inner)})


def may_change(value: object) -> bool:
    """Whether a global variable's content is watched too; of others, such as modules, only which one it is."""
    if isinstance(value, (Tensor, nn.Module, types.MethodType, types.SimpleNamespace, argparse.Namespace)):
        return True
    if isinstance(value, (types.FunctionType, type)):
        return not of_library(value)
    if is_python(type(value)):
        return not of_library(type(value))
    # of C: iterators, generators and locals of a thread hold something, NumPy's functions do not
    return not isinstance(value, np.ufunc) and not (hasattr(value, "__qualname__") and of_library(value))
