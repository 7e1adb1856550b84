"""A policy in evaluation mode, restored afterwards."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

from rlpipe.pipelines.seeding import Seeds

_OWN = frozenset(vars(nn.Module()))


@contextlib.contextmanager
def evaluating(policy: TensorDictModuleBase, seed: int) -> Iterator[None]:
    """Put a policy into evaluation mode, with new generators in place of its own; restore everything afterwards."""
    modules = list(policy.modules())
    modes = [module.training for module in modules]
    kept = [_State(module) for module in modules]
    try:
        reseed(modules, Seeds(seed))
        policy.eval()
        with Seeds(seed).torch_seeded("global"):
            yield
    finally:
        # outermost first, because `train` also sets the mode of submodules
        for module, mode in zip(modules, modes, strict=True):
            if module.training != mode:
                module.train(mode)
        for state in kept:
            state.restore()


def reseed(modules: list[nn.Module], seeds: Seeds) -> None:
    """Give modules new generators of the kinds they have."""
    holders: list[Any] = [each for each in modules if isinstance(getattr(each, "generator", None), torch.Generator)]
    for index, module in enumerate(holders):
        module.generator = seeds.generator(f"module {index}", module.generator.device)
    for index, module in enumerate(modules):
        for name, value in list(vars(module).items()):
            seed = seeds.integer(f"{name} {index}")
            if isinstance(value, torch.Generator) and name != "generator":
                vars(module)[name] = torch.Generator(value.device).manual_seed(seed)
            elif isinstance(value, np.random.Generator):
                vars(module)[name] = np.random.default_rng(seed)
            elif isinstance(value, random.Random):
                vars(module)[name] = random.Random(seed)


class _State:
    """What a module has besides parameters and submodules: buffers, counters, generators."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        # a lazy module is initialised by its first call, in any mode
        self._is_lazy = isinstance(module, LazyModuleMixin) and module.has_uninitialized_params()
        self._attributes = {name: value for name, value in vars(module).items() if name not in _OWN}
        self._buffers = dict(module._buffers)
        held = () if self._is_lazy else (*self._attributes.values(), *self._buffers.values())
        self._contents = [(each, each.detach().clone()) for each in held if isinstance(each, Tensor)]

    def restore(self) -> None:
        if self._is_lazy:
            return
        own = vars(self._module)
        for name in [name for name in own if name not in _OWN and name not in self._attributes]:
            del own[name]
        own.update(self._attributes)
        self._module._buffers.clear()
        self._module._buffers.update(self._buffers)
        with torch.no_grad():
            for tensor, content in self._contents:
                if not torch.equal(tensor, content):
                    tensor.copy_(content)
