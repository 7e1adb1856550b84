"""Networks without the cost of calling modules, for acting at every step without gradients."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as calls

from rlpipe.modules.base import TensorModule
from rlpipe.modules.encoders import Encoder, Flatten
from rlpipe.modules.networks import Network, Tanh

Layer = Callable[..., Tensor]
Runners = Sequence[tuple[TensorModule, Mapping[nn.Module, Layer]]]
_IN_TURN = (nn.Sequential.forward, Network.forward)


@contextlib.contextmanager
def acting(modules: Iterable[TensorModule]) -> Iterator[None]:
    """Within, the modules run their networks by `straight`: under inference mode, with the present weights."""
    with by_straight(runners(modules)):
        yield


def runners(modules: Iterable[TensorModule]) -> Runners:
    """Of each module, the functions of its networks; see `straight`."""
    return [(each, {network: straight(network) for network in each.children()}) for each in modules]


@contextlib.contextmanager
def by_straight(runners: Runners) -> Iterator[None]:
    """Within, modules run their networks by these functions: under inference mode, with the weights that they hold."""
    for each, functions in runners:
        # faster than setting an attribute, which modules check
        each.__dict__["running"] = functions
    try:
        yield
    finally:
        for each, _ in runners:
            each.__dict__.pop("running", None)


def straight(network: nn.Module) -> Layer:
    """The function of `network`, equal to the bit, without module calls between layers; for inference mode only.

    Modules that have hooks or override `__call__` are called as usual.
    """
    layers: list[Layer] = []
    fresh = False
    for module in _modules(network):
        joins = isinstance(module, Encoder) and type(module).forward is Encoder.forward and _is_plain(module)
        layers.append(_joined(module.layers) if joins else _layer(module, fresh))
        # nothing else holds the output of a linear layer, so an activation may overwrite it
        fresh = type(module) is nn.Linear and _is_plain(module)
    first, *others = layers or [network.forward]
    if not others:
        return first

    def run(*entries: Tensor) -> Tensor:
        x = first(*entries)
        for layer in others:
            x = layer(x)
        return x

    return run


def _modules(network: nn.Module) -> Iterator[nn.Module]:
    if isinstance(network, nn.Sequential) and type(network).forward in _IN_TURN and _is_plain(network):
        for each in network:
            yield from _modules(each)
    else:
        yield network


def _joined(layers: Any) -> Layer:
    """`Encoder.forward` over its layers."""
    parts, dtype = [straight(each) for each in layers], torch.get_default_dtype()
    only_casts = all(_only_casts(each) for each in layers)

    def join(*entries: Tensor) -> Tensor:
        if only_casts and len(entries) == len(parts):
            joined = torch.cat(entries, -1)
            # no entry was of a larger type, so each was cast as its layer does
            if joined.dtype is dtype:
                return joined
        return torch.cat([part(entry) for part, entry in zip(parts, entries, strict=True)], -1)

    return join


def _only_casts(layer: nn.Module) -> bool:
    if type(layer) is not Flatten or not _is_plain(layer):
        return False
    return layer.dims == 1 and layer.scale is None and layer.offset is None


def _is_plain(module: nn.Module) -> bool:
    """Whether calling it does no more than its class's `forward`."""
    hooks = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
        calls._global_forward_hooks,
        calls._global_forward_pre_hooks,
    )
    usual = type(module).__call__ is nn.Module.__call__ and "forward" not in vars(module)
    return usual and not any(hooks) and getattr(module, "_compiled_call_impl", None) is None


def _layer(module: nn.Module, fresh: bool) -> Layer:
    if not _is_plain(module):
        return module
    if type(module) is nn.Linear:
        weight, bias = module.weight, module.bias
        return lambda x: F.linear(x, weight, bias)
    if _only_casts(module):
        dtype = torch.get_default_dtype()
        return lambda x: x if x.dtype is dtype else x.to(dtype)
    if type(module) is Tanh and fresh:
        minus_one = module.minus_one
        # `Tanh.forward`, in place
        return lambda x: torch.add(minus_one, x.add_(x).sigmoid_(), alpha=2.0, out=x)
    if type(module) is nn.ReLU and fresh:
        return torch.relu_
    return module.forward
