"""`TensorModule`: a TensorDictModule that is one function of tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase, TensorDictSequential
from tensordict.utils import NestedKey
from torch import Tensor, nn
from torchrl.data import (
    Binary,
    Bounded,
    Categorical,
    Composite,
    MultiCategorical,
    MultiOneHot,
    NonTensor,
    OneHot,
    TensorSpec,
    Unbounded,
)

FINE = 2.0**-11
"""Width of a range, as a share of its distance from 0, in which float32 has some 4,000 numbers."""


class TensorModule(TensorDictModuleBase):
    """A module that computes a function of tensors, `compute`, and is called with a TensorDict.

    Code that runs at every step, such as the lean collector, may call `compute` directly, without TensorDicts.
    """

    in_keys: list[NestedKey]
    out_keys: list[NestedKey]

    compute: Callable[..., tuple[Tensor, ...]]
    """From the entries of `in_keys` to those of `out_keys`, in their order; each subclass defines it."""

    running: Mapping[nn.Module, Callable[..., Tensor]] = {}
    """What is called in place of a network within `acting`."""

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        inputs = self.read(tensordict)
        # not `out_keys`, which `select_out_keys` shortens
        for key, output in zip(self.out_keys_source, self.compute(*inputs), strict=True):
            tensordict.set(key, output)
        return tensordict

    def read(self, tensordict: TensorDictBase) -> list[Tensor]:
        """The entries of `in_keys`, in their order; a `KeyError` names one that is missing."""
        inputs = [tensordict.get(key, None) for key in self.in_keys]
        for key, value in zip(self.in_keys, inputs, strict=True):
            if value is None:
                there = sorted(map(str, tensordict.keys(True, True)))
                raise KeyError(f"{type(self).__name__} reads key {key!r}, and the TensorDict has only {there}")
        return inputs

    def through(self, network: nn.Module, *entries: Tensor, beside: str = "") -> Tensor:
        """Run a network of this module on the entries of an observation, and what the input holds `beside` them.

        Raises:
            ValueError: the network cannot take them; names the shapes and dtypes.
        """
        try:
            output: Tensor = self.running.get(network, network)(*entries)
            return output
        except (RuntimeError, IndexError) as error:
            # subclasses, such as running out of memory, have clear messages
            if type(error) not in (RuntimeError, IndexError):
                raise
            each = [
                f"key {key!r} of shape {list(entry.shape)}{beside} and dtype {entry.dtype}"
                for key, entry in zip(self.in_keys, entries, strict=False)
            ]
            raise ValueError(
                f"the network of {type(self).__name__} cannot take {', '.join(each)}: {error}; build it for the "
                "environment's observation_spec, as rlpipe.modules.encoder does"
            ) from error


def keys_read(network: nn.Module | None) -> list[NestedKey]:
    """The entries that a network takes: its `in_keys`, or those of its first layer; else `["observation"]`.

    Raises:
        ValueError: they are several, and the network is an `nn.Sequential`, which passes on one tensor.
    """
    keys = getattr(network, "in_keys", None)
    if keys is not None:
        return list(keys)
    if not isinstance(network, nn.Sequential) or not len(network):
        return ["observation"]
    keys = keys_read(network[0])
    if len(keys) > 1 and type(network).forward is nn.Sequential.forward:
        raise ValueError(
            f"the network's first layer takes {keys}, and nn.Sequential passes on one tensor; make it a "
            "rlpipe.modules.Network"
        )
    return keys


def check_outputs(module: nn.Module, outputs: Tensor, expected: int, what: str = "one an action") -> Tensor:
    """Check that `outputs` `[*B, n]` has as many numbers as expected, and return it; else raise a `ValueError`."""
    if outputs.shape[-1:].numel() != expected:
        raise ValueError(
            f"the network of {type(module).__name__} gives {outputs.shape[-1:].numel()} numbers, expected {expected}: "
            f"{what}"
        )
    return outputs


_KINDS: dict[type[TensorSpec], str] = {
    MultiCategorical: "MultiDiscrete",
    Binary: "MultiBinary",
    Categorical: "Discrete",
    Bounded: "a Box",
    Unbounded: "a Box",
    Composite: "a Dict or Tuple",
    MultiOneHot: "one-hot",
    OneHot: "one-hot",
    NonTensor: "text or other data without numbers",
}


def kind_of(spec: TensorSpec) -> str:
    """The kind of space that a spec describes, in Gymnasium's words, as behind "it is"."""
    return next((name for kind, name in _KINDS.items() if isinstance(spec, kind)), f"a {type(spec).__name__}")


def needs_discrete(module: nn.Module, spec: TensorSpec, instead: str) -> int:
    """The number of actions of `spec`; if it is not Discrete, a `ValueError` says what `module` needs `instead`."""
    if type(spec) is Categorical:
        return int(spec.space.n)
    name, hint = type(spec).__name__, "pass env.action_spec of an environment of make_env"
    if isinstance(spec, (Bounded, Unbounded)):
        hint = instead
    if isinstance(spec, OneHot):
        hint = "make the environment with categorical_action_encoding=True"
    raise ValueError(f"{type(module).__name__} needs Discrete actions (a Categorical spec), got {name}; {hint}")


def tensor_modules(policy: nn.Module) -> Sequence[TensorModule] | None:
    """The `TensorModule`s that a policy consists of, in order; `None` if it has hooks or other parts."""
    sequence = type(policy) is TensorDictSequential
    modules = list(policy.get_submodule("module").children()) if sequence else [policy]
    for each in [policy, *modules]:
        if each._forward_hooks or each._forward_pre_hooks or "forward" in vars(each):
            return None
    plain = [each for each in modules if isinstance(each, TensorModule)]
    calls = {(type(each).forward, type(each).__call__) for each in plain}
    return plain if len(plain) == len(modules) and calls <= {(TensorModule.forward, TensorModule.__call__)} else None
