"""Target networks, and freezing networks for a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, TypeVar

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModuleBase
from torch import nn
from torchrl.objectives import LossModule

Network = TypeVar("Network", bound=nn.Module)


def frozen_copy(network: Network) -> Network:
    """A deep copy of `network`, or of an `nn.ModuleList` of several, whose parameters take no gradient."""
    return deepcopy(network).requires_grad_(False)


@contextmanager
def frozen(*networks: nn.Module) -> Iterator[None]:
    """Within, the parameters of `networks` take no gradient; their inputs still do.

    An actor's loss can then pass through a critic without changing it, and all losses can be minimised as one sum.
    """
    parameters = [each for network in networks for each in network.parameters() if each.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


class HasTargets(LossModule):
    """A loss whose target networks TorchRL's `SoftUpdate` and `HardUpdate` can move, in place of a `TargetUpdate`.

    A submodule `target_x` is the `frozen_copy` of the submodule `x`. They look for `x_params` and `target_x_params`,
    which are here the parameters of the two, under the same names. Unlike `TargetUpdate`, they do not copy buffers.
    """

    # the networks are called as they are, and are submodules
    functional = False
    reset_parameters_recursive = TensorDictModuleBase.reset_parameters_recursive
    sources: Mapping[str, str] = {}
    """The source of each target by its name, where that is another than without `target_`."""

    def __getattr__(self, name: str) -> Any:
        if name.endswith("_params"):
            network = self._modules.get(name.removesuffix("_params"))
            for target, source in self._targets().items():
                network = self._modules[target] if name == f"target_{source}_params" else network
            if network is not None:
                return TensorDict.from_module(network)
        return super().__getattr__(name)

    def named_children(self) -> Iterator[tuple[str, nn.Module]]:
        """As of any module, but for the targets' names, by which TorchRL finds them: `target_x_params`."""
        targets = self._targets()
        for name, child in super().named_children():
            yield f"target_{targets[name]}_params" if name in targets else name, child

    def _targets(self) -> dict[str, str]:
        names = {name: self.sources.get(name, name.removeprefix("target_")) for name in self._modules}
        return {target: source for target, source in names.items() if target != source and source in self._modules}


class TargetUpdate:
    """Moves a target network towards its source at each call, or copies it every `every` calls.

    Soft: `target += tau * (source - target)` (Lillicrap et al. 2016, Algorithm 1). Periodic: the copy of Mnih et al.
    2015 at calls `every`, `2 * every`, ... Buffers are copied whenever the parameters move.

    Args:
        source: the network that learns; several as an `nn.ModuleList`.
        target: its `frozen_copy`.
        tau: in (0, 1]; 1 copies.
        every: move at every so many calls.

    Raises:
        ValueError: `tau` or `every` is out of range, or the networks differ.
    """

    def __init__(self, source: nn.Module, target: nn.Module, *, tau: float = 1.0, every: int = 1) -> None:
        if not 0.0 < tau <= 1.0:
            raise ValueError(f"tau is {tau}, allowed is 0 < tau <= 1")
        if every < 1:
            raise ValueError(f"every is {every}, allowed is 1 or more")
        self.tau, self.every, self.calls = tau, every, 0
        self._sources: list[torch.Tensor] = list(source.parameters())
        self._targets: list[torch.Tensor] = list(target.parameters())
        shapes = [[each.shape for each in both] for both in (self._sources, self._targets)]
        if shapes[0] != shapes[1]:
            raise ValueError("source and target are different networks; make the target by frozen_copy(source)")
        self._buffers = list(zip(target.buffers(), source.buffers(), strict=True))

    @torch.no_grad()
    def __call__(self) -> None:
        self.calls += 1
        if self.calls % self.every:
            return
        if self.tau == 1.0:
            torch._foreach_copy_(self._targets, self._sources)
        else:
            torch._foreach_lerp_(self._targets, self._sources, self.tau)
        for target, source in self._buffers:
            target.copy_(source)

    def state_dict(self) -> dict[str, int]:
        """The number of calls so far."""
        return {"calls": self.calls}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from a `state_dict`."""
        if type(state["calls"]) is not int or state["calls"] < 0:
            raise ValueError(f"calls is {state['calls']!r}, expected a whole number")
        self.calls = state["calls"]
