"""A policy in evaluation mode, and put back as it was."""

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
    """Put the policy into evaluation mode, with a generator of its own wherever it has one; put all back afterwards."""
    modules = list(policy.modules())
    modes = [module.training for module in modules]
    kept = [_State(module) for module in modules]
    try:
        _reseed(modules, Seeds(seed))
        policy.eval()
        with Seeds(seed).torch_seeded("global"):
            yield
    finally:
        # from the outside in, because `train` passes a mode on
        for module, mode in zip(modules, modes, strict=True):
            if module.training != mode:
                module.train(mode)
        for state in kept:
            state.put_back()


def _reseed(modules: list[nn.Module], seeds: Seeds) -> None:
    """Give modules new generators, of whichever kind they have."""
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
    """What a module has beside its parameters and submodules: buffers, counters, generators."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        # one that has not seen its input yet is made by its first call, in whatever mode
        self._unmade = isinstance(module, LazyModuleMixin) and module.has_uninitialized_params()
        self._attributes = {name: value for name, value in vars(module).items() if name not in _OWN}
        self._buffers = dict(module._buffers)
        held = () if self._unmade else (*self._attributes.values(), *self._buffers.values())
        self._contents = [(each, each.detach().clone()) for each in held if isinstance(each, Tensor)]

    def put_back(self) -> None:
        """Make the module what it was."""
        if self._unmade:
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
