"""`TensorModule`: a TensorDictModule that is one function of tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypedDict

from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase, TensorDictSequential
from tensordict.utils import NestedKey, unravel_key
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


class Keys(TypedDict, total=False):
    """The keyword arguments that every module takes: see `TensorModule`."""

    in_keys: Sequence[NestedKey] | None
    out_keys: Sequence[NestedKey] | None


class TensorModule(TensorDictModuleBase):
    """A module that computes a function of tensors, `compute`, and is called with a TensorDict.

    Code that runs at every step, such as the lean collector, may call `compute` directly, without TensorDicts.

    Every module of rlpipe takes two keyword arguments:

    - `in_keys`: the entries that its network takes, in this order; by default those that the network tells, such as
      `["observation"]`. What the module itself reads, `action_mask` or `action`, comes behind them.
    - `out_keys`: other names for what it writes, as many as its own.
    """

    in_keys: list[NestedKey]
    out_keys: list[NestedKey]

    compute: Callable[..., tuple[Tensor, ...]]
    """From the entries of `in_keys` to those of `out_keys`, in their order; each subclass defines it."""

    running: Mapping[nn.Module, Callable[..., Tensor]] = {}
    """What is called in place of a network within `acting`."""

    def name_keys(
        self,
        network: nn.Module | Sequence[NestedKey] | None,
        beside: Sequence[NestedKey],
        writes: Sequence[NestedKey],
        *,
        in_keys: Sequence[NestedKey] | None = None,
        out_keys: Sequence[NestedKey] | None = None,
    ) -> None:
        """Set `in_keys` and `out_keys`: the module's own, or those given in their place.

        Args:
            network: what takes the first entries, see `keys_read`; or the keys of these entries.
            beside: what the module reads behind them; always the last, also if `in_keys` has them.
            writes: what it writes.
            in_keys: in place of the network's own.
            out_keys: in place of `writes`.

        Raises:
            ValueError: of another number, or not a list of keys.
        """
        name = type(self).__name__
        reads = list(network) if isinstance(network, Sequence) else keys_read(network)
        if in_keys is not None:
            given = [key for key in _listed(name, "in_keys", in_keys) if key not in beside]
            # a network of the user's may take several entries, and not tell them
            free = not isinstance(network, Sequence) and len(reads) == 1 and given
            if len(given) != len(reads) and not free:
                raise ValueError(f"in_keys of {name} are {given}; expected as many keys as {reads}")
            reads = given
        self.in_keys = [*reads, *beside]
        self.out_keys = list(writes) if out_keys is None else _listed(name, "out_keys", out_keys)
        if not len(set(self.out_keys)) == len(self.out_keys) == len(writes):
            raise ValueError(
                f"out_keys of {name} are {self.out_keys}; expected as many different keys as {list(writes)}"
            )

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


def _listed(name: str, what: str, keys: Sequence[NestedKey]) -> list[NestedKey]:
    """A list of keys in TensorDict's own form; a text or a number in its place is a `ValueError`."""
    try:
        if isinstance(keys, str):
            raise TypeError
        return [unravel_key(key) for key in keys]
    except (TypeError, ValueError, RuntimeError):
        example = f"[{keys!r}]" if isinstance(keys, str) else "['observation']"
        raise ValueError(f"{what} of {name} is {keys!r}; expected a list of keys, such as {example}") from None


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
