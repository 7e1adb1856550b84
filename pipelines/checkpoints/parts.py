"""The stateful parts of a pipeline: those that its state names, and those that its functions hold."""

from __future__ import annotations

import dis
import importlib
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torchrl.collectors import BaseCollector
from torchrl.data import ReplayBuffer
from torchrl.data.replay_buffers.storages import Storage
from torchrl.envs import EnvBase

_NAMES: dict[str, str] = {"TargetUpdate": "target", "SoftUpdate": "target", "HardUpdate": "target"}
_CLOSED = (type, types.ModuleType, Tensor, TensorDictBase, str, bytes, int, float, EnvBase, BaseCollector, Storage)
"""What is not looked into."""
_LIBRARIES = ("torch", "torchrl", "tensordict", "rlpipe")


def together(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """Several parts by name, each object once; one whose name is taken gets a number: `loss`, `loss_2`."""
    joined: dict[str, Any] = {}
    for name, part in [pair for each in parts for pair in each.items()]:
        if any(part is other for other in joined.values()):
            continue
        free, number = name, 1
        while free in joined:
            number += 1
            free = f"{name}_{number}"
        joined[free] = part
    return joined


def parts_of(thing: Any, name: str = "") -> dict[str, Any]:
    """The objects with a state that a part of an algorithm holds, by name.

    Those that its `held` names; itself, if it has `state_dict` and `load_state_dict`; what a replay buffer holds; of a
    method its object; and of a custom function, or an object that is called, those among the variables that it uses.

    Args:
        thing: an update, what learns, a module, or any function.
        name: of `thing`, if it has a state itself; by default one for its kind, such as `optimizer`.
    """
    return _parts_of(thing, name, set())


def _parts_of(thing: Any, name: str, seen: set[int]) -> dict[str, Any]:
    if id(thing) in seen or isinstance(thing, _CLOSED):
        return {}
    seen.add(id(thing))
    if isinstance(thing, ReplayBuffer):
        # by name, because it is on a floor above
        saved: dict[str, Any] = importlib.import_module("rlpipe.pipelines.replay.state").saved_parts(thing)
        return saved
    if isinstance(held := getattr(thing, "held", None), Mapping):
        return dict(held)
    if hasattr(thing, "state_dict") and hasattr(thing, "load_state_dict"):
        return {_component(name) or name_of(thing): thing}
    if isinstance(thing, types.MethodType):
        return _parts_of(thing.__self__, "", seen)
    inside = _variables(thing)
    if isinstance(thing, dict):
        inside = [(str(key), each) for key, each in thing.items()]
    elif isinstance(thing, (list, tuple)):
        inside = [(name, each) for each in thing]
    elif callable(thing) and not _of_library(type(thing)):
        inside = [*getattr(thing, "__dict__", {}).items(), *inside]
    return together(*(_parts_of(each, own, seen) for own, each in inside))


def name_of(part: Any) -> str:
    """The name of a component for an object of this kind: `optimizer`, `schedule`, `target`, or its class's."""
    if isinstance(part, torch.optim.Optimizer):
        return "optimizer"
    if isinstance(part, LRScheduler):
        return "schedule"
    kind = type(part).__name__
    return (
        _NAMES.get(kind) or _component(re.sub("(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", kind)) or "part"
    )


def _component(name: str) -> str:
    """A variable's name as that of a component; empty if it has no letters."""
    return re.sub("^[^a-z]+", "", re.sub("[^a-z0-9_]", "_", name.lower()))


def _variables(function: Any) -> list[tuple[str, Any]]:
    """The variables of enclosing functions and modules that a function uses, by name."""
    if isinstance(function, partial):
        return [("", each) for each in (function.func, *function.args, *function.keywords.values())]
    if not isinstance(function, types.FunctionType):
        return []
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    found = [(name, content) for name, cell in cells for content in _content(cell)]
    if not _of_library(function):
        names = dict.fromkeys(_globals_in(function.__code__))
        found += [(name, function.__globals__[name]) for name in names if name in function.__globals__]
        found += _defaults(function)
    return found


def _defaults(function: types.FunctionType) -> list[tuple[str, Any]]:
    """The arguments of a function that have a default, by name."""
    values, code = function.__defaults__ or (), function.__code__
    names = code.co_varnames[code.co_argcount - len(values) : code.co_argcount]
    return [*zip(names, values, strict=True), *(function.__kwdefaults__ or {}).items()]


def _globals_in(code: types.CodeType) -> Iterator[str]:
    """The names of global variables in a function's code, and in that of the functions in it."""
    # not `co_names`, which has attributes too
    yield from (each.argval for each in dis.get_instructions(code) if each.opname == "LOAD_GLOBAL")
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _globals_in(inner)


def _content(cell: types.CellType) -> list[Any]:
    try:
        return [cell.cell_contents]
    except ValueError:
        # not assigned yet
        return []


def _of_library(thing: Any) -> bool:
    return str(getattr(thing, "__module__", "")).split(".")[0] in _LIBRARIES


def completed(
    state: Mapping[str, Any], policy: nn.Module, learn: Callable[..., Any], taken: Iterable[str] = ()
) -> dict[str, Any]:
    """A pipeline's state with what it lacks: the policy, what `learn` holds, and random generators.

    An object is not added if a part of the state is the same object, or saves it: a module in a module, or what the
    part's `saves()` lists.

    Args:
        state: what the user named.
        policy: of the pipeline.
        learn: of the pipeline.
        taken: names that are not to be given.
    """
    whole = {"policy": policy, **state}
    saved = _Saved()
    for part in whole.values():
        saved.add(part)
    for name, part in parts_of(learn).items():
        if not saved.has(part):
            saved.add(part)
            whole[_free(name, {*whole, *taken})] = part
    loose = [each for each in _generators_of((policy, learn)) if not saved.has(each)]
    if loose:
        whole[_free("generators", {*whole, *taken})] = Generators(loose)
    return whole


def _free(name: str, taken: set[str]) -> str:
    names = (name if number == 1 else f"{name}_{number}" for number in range(1, len(taken) + 2))
    return next(each for each in names if each not in taken)


class _Saved:
    """What the parts of a state save, by identity."""

    def __init__(self) -> None:
        self._kept: list[Any] = []
        self._ids: set[int] = set()

    def add(self, part: Any) -> None:
        """Add a part of a state."""
        own = [part, *_listed(part)]
        if isinstance(part, nn.Module):
            own += [*part.modules(), *part.parameters(), *part.buffers()]
        # kept, so that each `id` stays unique
        self._kept += own
        self._ids.update(map(id, own))

    def has(self, part: Any) -> bool:
        """Whether everything in a part is saved."""
        if id(part) in self._ids:
            return True
        if isinstance(part, nn.Module):
            return all(map(self._has_module, part.modules()))
        listed = _listed(part)
        return bool(listed) and all(id(each) in self._ids for each in listed)

    def _has_module(self, module: nn.Module) -> bool:
        if id(module) in self._ids:
            return True
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        plain = type(module).get_extra_state is nn.Module.get_extra_state
        return plain and all(id(each) in self._ids for each in own)


def _listed(part: Any) -> list[Any]:
    return list(part.saves()) if callable(getattr(part, "saves", None)) else []


def _generators_of(roots: Iterable[Any]) -> list[torch.Generator]:
    """PyTorch's generators in anything that is found from some objects, in a fixed order; not in environments."""
    found: list[torch.Generator] = []
    seen: dict[int, Any] = {}
    pending = list(roots)[::-1]
    while pending:
        thing = pending.pop()
        if id(thing) in seen or isinstance(thing, _CLOSED):
            continue
        seen[id(thing)] = thing
        if isinstance(thing, torch.Generator):
            found.append(thing)
        pending += _inside(thing)[::-1]
    return found


def _inside(thing: Any) -> list[Any]:
    if isinstance(thing, dict):
        return list(thing.values())
    if isinstance(thing, (list, tuple, set)):
        return list(thing)
    if isinstance(thing, types.MethodType):
        return [thing.__self__]
    own = [] if isinstance(thing, types.FunctionType) else list(getattr(thing, "__dict__", {}).values())
    return own + [each for _, each in _variables(thing)]


class Generators:
    """Random generators as a component of checkpoints."""

    def __init__(self, generators: Iterable[torch.Generator]) -> None:
        self._generators = list(generators)

    def state_dict(self) -> dict[str, list[Tensor]]:
        """The state of each."""
        return {"states": [each.get_state() for each in self._generators]}

    def load_state_dict(self, state: Mapping[str, list[Tensor]]) -> None:
        """Restore the generators from a `state_dict`; one of another number is a `ValueError`."""
        states = state["states"]
        if len(states) != len(self._generators):
            raise ValueError(f"the state is of {len(states)} generators, expected {len(self._generators)}")
        for generator, value in zip(self._generators, states, strict=True):
            generator.set_state(value.cpu())

    def saves(self) -> list[torch.Generator]:
        """The generators."""
        return list(self._generators)
