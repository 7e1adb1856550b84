"""`TensorModule`: a TensorDictModule that is one function of tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase, TensorDictSequential
from torch import Tensor, nn


class TensorModule(TensorDictModuleBase):
    """A module that says what it computes as a function of tensors, `compute`, and is called with a TensorDict.

    Whoever calls it at every step, as the lean collector does, may call `compute` and go without TensorDicts.
    """

    in_keys: list[str]
    out_keys: list[str]

    compute: Callable[..., tuple[Tensor, ...]]
    """From the entries of `in_keys` to those of `out_keys`, in their order; each subclass defines it."""

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        inputs = [tensordict.get(key) for key in self.in_keys]
        # not `out_keys`, from which TensorDict's `select_out_keys` takes some away
        for key, output in zip(self.out_keys_source, self.compute(*inputs), strict=True):
            tensordict.set(key, output)
        return tensordict


def tensor_modules(policy: nn.Module) -> Sequence[TensorModule] | None:
    """The `TensorModule`s that make up a policy, in their order; `None` if calling them is not all that it does."""
    sequence = type(policy) is TensorDictSequential
    modules = list(policy.get_submodule("module").children()) if sequence else [policy]
    for each in [policy, *modules]:
        if each._forward_hooks or each._forward_pre_hooks or "forward" in vars(each):
            return None
    plain = [module for module in modules if isinstance(module, TensorModule) and _is_plain(type(module))]
    return plain if len(plain) == len(modules) else None


def _is_plain(kind: type[TensorModule]) -> bool:
    return kind.forward is TensorModule.forward and kind.__call__ is TensorModule.__call__
