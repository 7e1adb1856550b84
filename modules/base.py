"""`TensorModule`: a TensorDictModule that is one function of tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase, TensorDictSequential
from torch import Tensor, nn
from torchrl.data import Bounded, Categorical, OneHot, TensorSpec, Unbounded

FINE = 2.0**-11
"""Width of a range, as a share of its distance from 0, in which float32 has some 4,000 numbers."""


class TensorModule(TensorDictModuleBase):
    """A module that computes a function of tensors, `compute`, and is called with a TensorDict.

    Code that runs at every step, such as the lean collector, may call `compute` directly, without TensorDicts.
    """

    in_keys: list[str]
    out_keys: list[str]

    compute: Callable[..., tuple[Tensor, ...]]
    """From the entries of `in_keys` to those of `out_keys`, in their order; each subclass defines it."""

    running: Mapping[nn.Module, Callable[[Tensor], Tensor]] = {}
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
                there = sorted(map(str, tensordict.keys()))
                raise KeyError(f"{type(self).__name__} reads key {key!r}, and the TensorDict has only {there}")
        return inputs

    def through(self, network: nn.Module, observation: Tensor, beside: str = "") -> Tensor:
        """Run a network of this module on the observation, and what the input holds `beside` it.

        Raises:
            ValueError: the network cannot take it; names the shape and dtype.
        """
        try:
            output: Tensor = self.running.get(network, network)(observation)
            return output
        except (RuntimeError, IndexError) as error:
            # subclasses, such as running out of memory, have clear messages
            if type(error) not in (RuntimeError, IndexError):
                raise
            raise ValueError(
                f"the network of {type(self).__name__} cannot take key 'observation' of shape "
                f"{list(observation.shape)}{beside} and dtype {observation.dtype}: {error}; build it for the "
                "environment's observation_spec, as rlpipe.modules.encoder does"
            ) from error


def needs_discrete(module: nn.Module, spec: TensorSpec, instead: str) -> int:
    """The number of actions of `spec`; if it is not Discrete, a `ValueError` says what `module` needs `instead`."""
    if isinstance(spec, Categorical):
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
