"""Terms that several losses share, and the checks of what losses read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase, TensorDictSequential
from tensordict.utils import NestedKey
from torch import Tensor, nn
from torch.distributions import Distribution

from rlpipe.kinds import Regression
from rlpipe.losses import functional as F
from rlpipe.modules import JointChoices
from rlpipe.modules.actors import StochasticActor


def policy_terms(
    actor: TensorDictModuleBase, batch: TensorDictBase, action: NestedKey = "action"
) -> tuple[Tensor, Tensor]:
    """Log-probability of the batch's action, and the policy's entropy, both of shape `[*B]`.

    An entropy without closed form, as of TorchRL's `TanhNormal`, is estimated by one sample, as in TorchRL's losses.

    Args:
        actor: has `get_dist`, or is a sequence in which a module has it, see `distribution_of`.
        batch: the actor's `in_keys` and the action, which is a nested TensorDict for Dict and Tuple actions.
        action: the action's key.

    Raises:
        KeyError: the batch lacks a key.
        TypeError: the actor has no `get_dist`.
        ValueError: the action does not fit the actor, or not one log-probability a sample.
    """
    taken = read(batch, action)
    distribution = distribution_of(actor, observed(batch, actor))
    try:
        log_prob = distribution.log_prob(taken)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, ValueError, KeyError, IndexError) as error:
        raise ValueError(
            f"{_described(action, taken)} has no log-probability under {type(actor).__name__}: {error}; it must be an "
            "action that this actor could have written"
        ) from error
    if log_prob.shape != batch.batch_size:
        raise ValueError(
            f"for {_described(action, taken)} the actor's log-probability has shape {list(log_prob.shape)}, expected "
            f"{list(batch.batch_size)}: one a sample"
        )
    return log_prob, _entropy(distribution)


def _described(key: NestedKey, action: Tensor | TensorDictBase) -> str:
    if isinstance(action, Tensor):
        return f"key {key!r} of shape {list(action.shape)} and dtype {action.dtype}"
    return f"key {key!r} with the entries {list(action.keys(True, True))}"


def _entropy(distribution: Distribution) -> Tensor:
    try:
        return distribution.entropy()
    except NotImplementedError:
        sample = distribution.rsample() if distribution.has_rsample else distribution.sample()
        return -distribution.log_prob(sample)


def distribution_of(actor: TensorDictModuleBase, tensordict: TensorDictBase) -> Distribution:
    """The action distribution of an actor, which may be a `TensorDictSequential`, such as an encoder and an actor.

    Of a sequence, the last module that has a `get_dist` gives it, after the modules before it have run; `tensordict`,
    which has the `in_keys` of the whole, then holds what they write.

    Raises:
        TypeError: no module has a `get_dist`.
    """
    if hasattr(actor, "get_dist"):
        return actor.get_dist(tensordict)
    modules = parts_of(actor)
    places = [place for place, module in enumerate(modules) if part_with(module, "get_dist") is not None]
    if not places:
        inside = f" of {', '.join(type(module).__name__ for module in modules)}" if modules else ""
        raise TypeError(
            f"the actor is a {type(actor).__name__}{inside}, which has no get_dist; a CategoricalActor has, and "
            "TorchRL's ProbabilisticActor"
        )
    for module in modules[: places[-1]]:
        tensordict = module(tensordict)
    return distribution_of(modules[places[-1]], tensordict)


def parts_of(module: nn.Module) -> list[TensorDictModuleBase]:
    """The modules of a `TensorDictSequential`, in their order; of any other module, none."""
    # not `children`, which gives a module that stands in two places once
    return list(module.module._modules.values()) if isinstance(module, TensorDictSequential) else []


def part_with(module: nn.Module, name: str) -> nn.Module | None:
    """The module if it has the attribute, else the last one in its sequence, or sequences, that has; else `None`."""
    if hasattr(module, name):
        return module
    return next((found for part in reversed(parts_of(module)) if (found := part_with(part, name)) is not None), None)


def written_keys(actor: TensorDictModuleBase) -> dict[str, NestedKey]:
    """The keys of action and log-probability that an actor of ours or of TorchRL's writes, for `set_keys`."""
    part = part_with(actor, "get_dist")
    if isinstance(part, StochasticActor):
        actions, log_probs = part.out_keys_source[:-1], part.out_keys_source[-1:]
    else:
        actions, log_probs = (getattr(part, name, None) or [] for name in ("dist_sample_keys", "log_prob_keys"))
    # the entries of Dict and Tuple actions are under one key, the default
    keys = {"action": actions, "sample_log_prob": log_probs}
    return {name: each[0] for name, each in keys.items() if len(each) == 1}


def action_keys(actor: TensorDictModuleBase, action: NestedKey = "action") -> list[NestedKey]:
    """The entries of an action that the actor writes: `[action]`, or those under it for Dict and Tuple actions."""
    path = _path(action)
    return [key for key in actor.out_keys if _path(key)[: len(path)] == path] or [action]


def _path(key: NestedKey) -> tuple[str, ...]:
    return (key,) if isinstance(key, str) else key


def value_terms(
    critic: TensorDictModuleBase,
    batch: TensorDictBase,
    kind: Regression = "mse",
    clip: float | None = None,
    value_key: NestedKey = "state_value",
    target_key: NestedKey = "value_target",
) -> tuple[Tensor, Tensor]:
    """`F.value_loss` `[*B]` of the critic on the batch's value target, and the explained variance, a scalar.

    Args:
        critic: writes `value_key` `[*B, 1]`.
        batch: the critic's `in_keys` and `target_key` `[*B, 1]`; with `clip` also the `value_key` `[*B, 1]` at
            collection.
        kind: `"mse"` or `"smooth_l1"`.
        clip: see `F.value_loss`.
        value_key: the value's key.
        target_key: the target's key.

    Raises:
        KeyError: the batch lacks a key, or the critic does not write the value.
        ValueError: a key, or what the critic writes, has another shape.
    """
    target = column(batch, target_key)
    value = column(valued(critic, observed(batch, critic), value_key), value_key)
    old_value = column(batch, value_key) if clip is not None else None
    return F.value_loss(value, target, kind, old_value, clip), F.explained_variance(value.detach(), target)


def valued(critic: TensorDictModuleBase, states: TensorDictBase, key: NestedKey) -> TensorDictBase:
    """What the critic returns for the states; a `KeyError` says that it does not write `key`."""
    written = critic(states)
    if written.get(key, None) is None:
        raise KeyError(
            f"the critic, a {type(critic).__name__}, writes {_listed(critic.out_keys)}, and no {_listed([key])}; name "
            "its key by set_keys(value=...) of the loss or advantage"
        )
    return written


def standardized(x: Tensor) -> Tensor:
    """Shift and scale `x` to mean 0 and standard deviation 1 over all elements; 0 if they are all equal."""
    return (x - x.mean()) / (x.std(correction=0) + 1e-8)


def read(batch: TensorDictBase, key: NestedKey) -> Tensor:
    """Read `key`; if the batch does not have it, a `KeyError` names those that it has."""
    value = batch.get(key, None)
    if value is None:
        raise KeyError(f"the batch has no key {key!r}; it has {_listed(batch.keys(True, True))}")
    return value


def _listed(keys: Iterable[NestedKey]) -> str:
    # dots, because KeyError escapes the quotes of tuples
    return ", ".join(".".join(_path(key)) for key in keys)


def column(batch: TensorDictBase, key: NestedKey) -> Tensor:
    """Read `key`, `[*B, 1]` in a batch of shape `[*B]`, and return it as `[*B]`; raises the errors of `scalar`."""
    value = read(batch, key)
    if value.shape != (*batch.batch_size, 1):
        raise ValueError(
            f"key {key!r} has shape {list(value.shape)}, expected {[*batch.batch_size, 1]} in a batch of shape "
            f"{list(batch.batch_size)}; add the last dimension with unsqueeze(-1)"
        )
    return value.squeeze(-1)


def scalar(batch: TensorDictBase, key: NestedKey) -> Tensor:
    """Read `key`, `[*B]` in a batch of shape `[*B]`; without the key a `KeyError`, of another shape a `ValueError`."""
    value = read(batch, key)
    if value.shape != batch.batch_size:
        raise ValueError(
            f"key {key!r} has shape {list(value.shape)}, expected {list(batch.batch_size)}: one number a sample"
        )
    return value


def discrete_action(batch: TensorDictBase, key: NestedKey = "action", joint: JointChoices | None = None) -> Tensor:
    """Read the number of an action `[*B]`, int64, as `scalar`; one that is one-hot, or of another dtype, is an error.

    Args:
        batch: has the action.
        key: the action's key.
        joint: for several choices at once: numbers their combinations; the batch's actions are `[*B, *joint.shape]`.

    Raises:
        KeyError: the batch lacks the key.
        ValueError: another dtype or shape.
    """
    action = read(batch, key)
    dtype, shape = (torch.int64, ()) if joint is None else (joint.dtype, joint.shape)
    if action.dtype != dtype or action.shape != (*batch.batch_size, *shape):
        hint = (
            ": the index of the action; pass categorical_action_encoding=True to a stock TorchRL environment, whose "
            "actions are one-hot otherwise"
        )
        raise ValueError(
            f"key {key!r} has dtype {action.dtype} and shape {list(action.shape)}, expected {dtype} and "
            f"{[*batch.batch_size, *shape]}{hint if joint is None else ''}"
        )
    return action if joint is None else joint.index(action)


def observed(batch: TensorDictBase, module: TensorDictModuleBase) -> TensorDictBase:
    """Select the entries that a module reads; a `KeyError` names one that the batch lacks."""
    for key in module.in_keys:
        read(batch, key)
    return batch.select(*module.in_keys)


def nested(keys: Sequence[NestedKey]) -> list[NestedKey]:
    """The same keys under `"next"`."""
    return [("next", *key) if isinstance(key, tuple) else ("next", key) for key in keys]
