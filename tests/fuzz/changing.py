"""A loss that reads all kinds of things, and changes of each kind: what a recording must follow or leave alone."""

from __future__ import annotations

import enum
import functools
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from tensordict import TensorDict
from torch import nn
from torch.nn.utils import parametrize

NUMBERS = [None, 0, 1, True, False, 1.0, 0.5, -0.0, 0.0, 2.5, np.float32(0.5), np.int64(2), float("inf")]
FACTOR = 1.0
"""A global variable that the loss reads."""


class Kind(enum.Enum):
    """A choice."""

    MEAN = "mean"
    SUM = "sum"


@dataclass
class Options:
    """An object with numbers, and one inside it."""

    scale: Any = 1.0
    inner: Any = None
    listed: list[Any] = field(default_factory=lambda: [1.0, 2.0])


class Slotted:
    """An object without a `__dict__`."""

    __slots__ = ("only",)

    def __init__(self) -> None:
        self.only: Any = 1.0


class Layer(nn.Module):
    """A linear layer with numbers of its own."""

    shift: Any = 0.25

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.temperature: Any = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.linear(x) + self.shift
        return y if self.temperature is None else y * self.temperature


class Reading(nn.Module):
    """A loss that reads something of everything."""

    in_keys = ["x"]

    def __init__(self, dropout: bool, normalise: bool, writes: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = [Layer(), nn.ReLU(), nn.Linear(3, 3)]
        layers += [nn.Dropout(0.5)] if dropout else []
        layers += [nn.BatchNorm1d(3)] if normalise else []
        self.net = nn.Sequential(*layers)
        self.register_buffer("offset", torch.tensor(0.5))
        self.register_buffer("optional", None)
        self.writes, self.low, self.high, self.kind = writes, None, 0.8, Kind.MEAN
        self.plain = torch.ones(3)
        self.listed: list[Any] = [1.0, [2.0]]
        self.named: dict[str, Any] = {"a": 1.0, "b": {"c": 2.0}}
        self.queue = deque([1.0], maxlen=3)
        self.options, self.slotted, self.array = Options(inner=Options()), Slotted(), np.ones(3, np.float32)
        self.dtype = torch.float32
        self.function: Any = torch.tanh

    def forward(self, batch: TensorDict) -> TensorDict:
        x = batch["x"].reshape(-1, 3)
        y = self.net(x) + self.offset + self.plain + torch.as_tensor(self.array, dtype=x.dtype)
        y = self.function(y).to(self.dtype)
        y = y if self.low is None and self.high is None else y.clamp(self.low, self.high)
        for number in [self.listed[0], *self.listed[1], self.slotted.only, self.options.scale, *self.options.listed]:
            y = y if number is None else y * number + number
        for key, number in self.named.items():
            y = y + (number["c"] if isinstance(number, dict) else number) * len(key)
        y = y * sum(self.queue) * FACTOR * (self.options.inner.scale if self.options.inner else 2.0)
        y = y if self.optional is None else y + self.optional
        y = y * batch["weight"].reshape(-1, 1) if "weight" in batch.keys() else y
        loss = (y.mean() if self.kind is Kind.MEAN else y.sum()) / len(batch)
        if self.writes:
            batch.set("error", y.detach().reshape(*batch.shape, 3))
        if getattr(self, "extra", None) is not None:
            loss = loss * self.extra
        return TensorDict({"loss": loss, "spread": y.detach().std()})


class World:
    """A loss, and what its minibatches are like at present."""

    def __init__(self, *kinds: bool) -> None:
        torch.manual_seed(0)
        self.loss = Reading(*kinds)
        self.parameters = list(self.loss.parameters())
        self.shape, self.keys, self.grad, self.handles = (4,), {"x", "weight"}, False, []
        self.draw = torch.Generator().manual_seed(0)
        self.contexts: list[Any] = []

    def batch(self) -> TensorDict:
        data = {
            key: torch.randn(*self.shape, *([3] if key == "x" else []), generator=self.draw) for key in ("x", "weight")
        }
        batch = TensorDict({key: data[key] for key in ("x", "weight") if key in self.keys}, self.shape)
        return batch.requires_grad_(self.grad) if self.grad else batch


def double(module: Any, given: Any, output: Any) -> Any:
    return output * 2


def halve(module: Any, given: Any, output: Any) -> Any:
    return output / 2


def enclosing(number: Any) -> Any:
    """A function that closes over a number, and its setter."""

    def function(x: torch.Tensor) -> torch.Tensor:
        return x * number

    def put(other: Any) -> None:
        nonlocal number
        number = other

    function.put = put  # type: ignore[attr-defined]
    return function


class Positive(nn.Module):
    """A parametrisation."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.abs()


def _replace(world: World, name: str, value: Any) -> None:
    setattr(world.loss, name, value)


def _unhook(world: World) -> None:
    while world.handles:
        world.handles.pop().remove()


def _parametrize(world: World) -> None:
    layer = world.loss.net[2]
    if parametrize.is_parametrized(layer):
        parametrize.remove_parametrizations(layer, "weight")
    else:
        parametrize.register_parametrization(layer, "weight", Positive())


def _reorder(world: World) -> None:
    modules = world.loss.net._modules
    first = next(iter(modules))
    modules.move_to_end(first) if hasattr(modules, "move_to_end") else modules.update({first: modules.pop(first)})


def _set_global(world: World, number: Any) -> None:
    globals()["FACTOR"] = number


def _batch(world: World, shape: tuple[int, ...]) -> None:
    world.shape = shape


def _closed(world: World, number: float) -> None:
    if hasattr(world.loss.function, "put"):
        world.loss.function.put(number)
    else:
        world.loss.function = enclosing(number)


CHANGES: dict[str, Any] = {
    "layer replaced": lambda w, n: w.loss.net.__setitem__(1, nn.Tanh() if n else nn.ReLU()),
    "layer added": lambda w, n: w.loss.net.append(nn.Softplus()),
    "layer removed": lambda w, n: len(w.loss.net) > 3 and w.loss.net.__delitem__(-1),
    "layers in another order": lambda w, n: _reorder(w),
    "number of a submodule": lambda w, n: setattr(_layer(w), "temperature", n),
    "class attribute hidden": lambda w, n: setattr(_layer(w), "shift", n or 0.125),
    "class attribute bare again": lambda w, n: vars(_layer(w)).pop("shift", None),
    "class attribute set": lambda w, n: setattr(Layer, "shift", n or 0.75),
    "swapped": lambda w, n: (setattr(w.loss, "low", w.loss.high), setattr(w.loss, "high", w.loss.low if n else None)),
    "in a list": lambda w, n: w.loss.listed.__setitem__(0, n),
    "in a list of a list": lambda w, n: w.loss.listed[1].append(n),
    "in a dict": lambda w, n: w.loss.named.__setitem__("a", n or 3.0),
    "key of a dict": lambda w, n: w.loss.named.__setitem__("more", n or 3.0),
    "in a dict of a dict": lambda w, n: w.loss.named["b"].__setitem__("c", n or 3.0),
    "in a deque": lambda w, n: w.loss.queue.append(n or 0.5),
    "in an object": lambda w, n: setattr(w.loss.options, "scale", n),
    "in an object of an object": lambda w, n: w.loss.options.inner and setattr(w.loss.options.inner, "scale", n or 0.5),
    "no object": lambda w, n: setattr(w.loss.options, "inner", None),
    "in an object's list": lambda w, n: w.loss.options.listed.__setitem__(0, n),
    "in a slot": lambda w, n: setattr(w.loss.slotted, "only", n),
    "in an array": lambda w, n: w.loss.array.__setitem__(0, n or 2.0),
    "enum": lambda w, n: _replace(w, "kind", Kind.SUM if n else Kind.MEAN),
    "dtype": lambda w, n: _replace(w, "dtype", torch.float64 if n else torch.float32),
    "tensor replaced": lambda w, n: _replace(w, "plain", torch.full((3,), 2.0)),
    "tensor in place": lambda w, n: w.loss.plain.mul_(1.5),
    "function": lambda w, n: _replace(w, "function", torch.sigmoid if n else torch.tanh),
    "partial": lambda w, n: _replace(w, "function", functools.partial(torch.clamp, min=n or 0.1)),
    "closure": lambda w, n: _closed(w, n or 1.5),
    "attribute added": lambda w, n: _replace(w, "extra", n),
    "attribute deleted": lambda w, n: hasattr(w.loss, "extra") and delattr(w.loss, "extra"),
    "forward of an instance": lambda w, n: setattr(w.loss.net[1], "forward", torch.tanh if n else torch.relu),
    "forward of the class again": lambda w, n: vars(w.loss.net[1]).pop("forward", None),
    "forward hook": lambda w, n: w.handles.append(w.loss.net[0].register_forward_hook(double if n else halve)),
    "pre-hook": lambda w, n: w.handles.append(w.loss.net[0].register_forward_pre_hook(lambda m, i: (i[0] * 2,))),
    "backward hook": lambda w, n: w.handles.append(
        w.loss.net[0].register_full_backward_hook(lambda m, i, o: (i[0] if i[0] is None else i[0] * 2,))
    ),
    "gradient hook": lambda w, n: w.handles.append(w.parameters[0].register_hook(lambda g: g * 3)),
    "other hooks": lambda w, n: (_unhook(w), w.handles.append(w.loss.net[0].register_forward_hook(halve))),
    "global hook": lambda w, n: w.handles.append(
        nn.modules.module.register_module_forward_hook(lambda m, i, o: o * 2 if isinstance(m, nn.Linear) else None)
    ),
    "no hooks": lambda w, n: _unhook(w),
    "parametrisation": lambda w, n: _parametrize(w),
    "frozen": lambda w, n: w.parameters[0].requires_grad_(False),
    "thawed": lambda w, n: w.parameters[0].requires_grad_(True),
    "buffer replaced": lambda w, n: _replace(w, "offset", torch.tensor(0.75)),
    "buffer of None": lambda w, n: _replace(w, "optional", torch.tensor(0.75) if n else None),
    "parameter replaced": lambda w, n: setattr(_layer(w).linear, "bias", nn.Parameter(torch.ones(3))),
    "parameter's data": lambda w, n: setattr(w.parameters[0], "data", w.parameters[0].data * 2),
    "evaluation": lambda w, n: w.loss.eval(),
    "training": lambda w, n: w.loss.train(),
    "shape": lambda w, n: _batch(w, (6,) if n else (4,)),
    "batch dimensions": lambda w, n: _batch(w, (2, 2) if n else (4,)),
    "key gone": lambda w, n: w.keys.discard("weight"),
    "key back": lambda w, n: w.keys.add("weight"),
    "entries with gradients": lambda w, n: setattr(w, "grad", bool(n)),
    "global variable": lambda w, n: _set_global(w, n or 1.0),
    "autocast": lambda w, n: setattr(w, "contexts", [lambda: torch.autocast("cpu", torch.bfloat16)]),
    "anomalies": lambda w, n: setattr(
        w, "contexts", [lambda: torch.autograd.set_detect_anomaly(True, check_nan=False)]
    ),
    "saved elsewhere": lambda w, n: setattr(
        w, "contexts", [lambda: torch.autograd.graph.saved_tensors_hooks(lambda x: x.half(), lambda x: x.float())]
    ),
    "no gradients": lambda w, n: setattr(w, "contexts", [torch.no_grad]),
    "no contexts": lambda w, n: setattr(w, "contexts", []),
    "doubled": lambda w, n: w.loss.load_state_dict({k: v * 2 for k, v in w.loss.state_dict().items()}),
}


def _layer(world: World) -> Layer:
    return next(each for each in world.loss.net if isinstance(each, Layer))


@st.composite
def plans(draw: st.DrawFn) -> tuple[tuple[bool, ...], list[tuple[list[tuple[str, Any]], int]]]:
    """Kinds of a loss; and phases, each some changes and a number of updates."""
    kinds = tuple(draw(st.booleans()) for _ in range(3))
    change = st.tuples(st.sampled_from(sorted(CHANGES)), st.sampled_from(NUMBERS))
    # short ones do not get to a recording, long ones replay it
    phase = st.tuples(st.lists(change, min_size=1, max_size=2), st.sampled_from([1, 3, 13, 13, 14]))
    return kinds, draw(st.lists(phase, min_size=1, max_size=4))
