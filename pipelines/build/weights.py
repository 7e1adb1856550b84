"""Weights to start from: the parts of another run's checkpoint that a new pipeline takes."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn
from torchrl.data import Binary, Categorical, TensorSpec
from torchrl.objectives import LossModule
from torchrl.objectives.value import ValueEstimatorBase

from rlpipe.errors import ConfigError
from rlpipe.modules.base import kind_of
from rlpipe.modules.choices import nvec_of
from rlpipe.modules.encoders import observed_leaves
from rlpipe.pipelines.checkpoints.checkpoint import check_identity, identity, read_components
from rlpipe.pipelines.checkpoints.older import completed
from rlpipe.pipelines.config.run import SessionConfig
from rlpipe.pipelines.config.start import Start
from rlpipe.pipelines.envs.make import make_env_of_any_size
from rlpipe.pipelines.pipeline import Pipeline
from rlpipe.pipelines.seeding import GlobalRandom
from rlpipe.user_modules import is_free, module_of

_SPACES = ("env_id", "env_kwargs", "wrapper", "frame_stack", "time_aware", "from_pixels")
"""Config fields that the spaces depend on."""
Tensors = dict[str, Tensor]


def load_weights(pipeline: Pipeline, config: SessionConfig, start: Start) -> None:
    """Take what a `Start` names of another run into a new pipeline.

    - `policy`: the tensors of the policy, or its table. Layers that other networks share with it come with it.
    - `critic`: the tensors of the other modules in the state, such as the critic of a loss.
    - `statistics`: of running normalisation.

    All else is as in a new run: optimiser, random streams, counters and with them exploration, the coefficients of
    losses, and what describes the environment, such as the bounds of actions. What began as a frozen copy of a network,
    as target networks do, becomes a copy of it again.

    Args:
        pipeline: just built.
        config: what a session reads of the Config that it was built from.
        start: what to take.

    Raises:
        CheckpointError: the checkpoint is damaged, or of another run than the one that it is in.
        ConfigError: a part that was named is missing, or one does not fit. The pipeline may then have others.
    """
    check_identity(start.checkpoint, identity(start.algorithm, start.config))
    statistics = pipeline.statistics()
    modules = {name: each for name, each in pipeline.state.items() if isinstance(each, nn.Module)}
    networks = {name: each for name, each in modules.items() if name not in statistics}
    if start.takes("policy") or start.takes("critic"):
        _check_spaces(config, start)
    saved = read_components(start.checkpoint, modules)
    copies = list(_copies(networks.values()))
    for part in ("policy", "critic"):
        if start.takes(part):
            _take(part, networks, saved, start, copies=[copy for _, copy in copies])
    for source, copy in copies:
        copy.load_state_dict(source.state_dict())
    if start.takes("statistics"):
        _take_statistics({name: modules[name] for name in sorted(statistics)}, saved, start)


def _take(
    part: str, networks: Mapping[str, nn.Module], saved: Mapping[str, Any], start: Start, copies: Iterable[nn.Module]
) -> None:
    """Load a part, after a check of all its tensors."""
    policy = {"policy": networks["policy"]} if "policy" in networks else {}
    others = _places([*policy.values(), *copies])
    found = False
    for name, module in (policy if part == "policy" else networks).items():
        state, kept, there = module.state_dict(), _kept(module), _tensors(saved.get(name, {}))
        own = {key: each for key, each in _tensors(state).items() if key not in kept}
        if part == "critic":
            own = {key: each for key, each in own.items() if each.data_ptr() not in others}
        if any(key in there for key in own):
            found = True
            _check_fits(f"the {part} of {start.path}", own, there, known=kept | set(state))
            _check_bounds(
                f"the {part} of {start.path}", {key: each for key, each in state.items() if key in kept}, there
            )
            module.load_state_dict({**state, **{key: there[key] for key in own}})
    if not found and part in (*start.take, "policy"):
        raise ConfigError(
            f"start-from {start.path}, a run of {start.algorithm}, has no {part} whose tensors have the names of those "
            "in this algorithm"
        )


def _check_fits(whose: str, own: Tensors, there: Tensors, known: Collection[str]) -> None:
    """Refuse tensors of other names or shapes than those of a network, whose state has the names `known`."""
    for key, mine in own.items():
        theirs = there.get(key)
        if theirs is None or theirs.shape != mine.shape:
            has = f"no {key}" if theirs is None else f"{key} {list(theirs.shape)}"
            raise ConfigError(f"{whose} does not fit: it has {has}, and the new one {list(mine.shape)}")
    networks = {key.partition(".")[0] for key in own}
    if more := [key for key in there if key not in known and key.partition(".")[0] in networks]:
        raise ConfigError(f"{whose} does not fit: it has {more[0]} {list(there[more[0]].shape)}, and the new one none")


def _check_bounds(whose: str, own: Tensors, there: Tensors) -> None:
    """Refuse a policy over actions with bounds for such without, and the reverse: its distribution is another."""
    for key, mine in own.items():
        theirs = there.get(key)
        if theirs is not None and theirs.shape == mine.shape and not torch.equal(mine.isfinite(), theirs.isfinite()):
            raise ConfigError(
                f"{whose} does not fit: {key} is {theirs.tolist()}, and that of the new one {mine.tolist()}"
            )


def _take_statistics(own: Mapping[str, nn.Module], saved: Mapping[str, Any], start: Start) -> None:
    shared = {name: saved[name] for name in own if name in saved}
    if not shared and "statistics" in start.take:
        where = f"start-from {start.path} was trained without" if own else "this run is without"
        raise ConfigError(f"take has statistics, and {where} normalize_observation and normalize_reward")
    for name, state in shared.items():
        try:
            own[name].load_state_dict(state)
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"the statistics of {start.path} do not fit: {name}: {reason}") from error


def _tensors(state: Mapping[str, Any]) -> Tensors:
    return {key: each for key, each in state.items() if isinstance(each, Tensor)}


def _places(modules: Iterable[nn.Module]) -> set[int]:
    """Where the tensors of modules are in memory; a tensor that two modules share has one place."""
    return {each.data_ptr() for module in modules for each in _tensors(module.state_dict()).values() if each.numel()}


def _kept(module: nn.Module) -> set[str]:
    """The tensors that no other run can give: what describes the environment, and the coefficients of losses."""
    kept = set()
    for prefix, each in module.named_modules(remove_duplicate=False):
        names = set(getattr(each, "of_environment", ()))
        if isinstance(each, (LossModule, ValueEstimatorBase)):
            names |= set(each._buffers)
        kept |= {f"{prefix}.{name}" if prefix else name for name in names}
    return kept


def _copies(networks: Iterable[nn.Module]) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Pairs of a module that learns and a frozen one that holds the same numbers, the largest ones only."""
    # by their ids, because the parameters of TorchRL's losses are TensorDicts, which compare by element
    found = {id(each): each for network in networks for each in network.modules()}
    learning = {key: each for key, each in found.items() if any(one.requires_grad for one in each.parameters())}
    inside: set[int] = set()
    for key, frozen in found.items():
        if key in inside or key in learning:
            continue
        source = next((each for each in learning.values() if _same(each, frozen)), None)
        if source is not None:
            inside |= {id(each) for each in frozen.modules()}
            yield source, frozen


def _same(one: nn.Module, other: nn.Module) -> bool:
    """Whether both hold the same numbers, which are not all equal, as in a new layer normalisation."""
    a, b = _tensors(one.state_dict()), _tensors(other.state_dict())
    if set(a) != set(b) or not all(a[key].shape == b[key].shape and torch.equal(a[key], b[key]) for key in a):
        return False
    return any(each.numel() and bool((each != each.flatten()[0]).any()) for each in a.values())


def _check_spaces(config: SessionConfig, start: Start) -> None:
    """Refuse an environment of other spaces than that of the other run, as far as that can be made again."""
    now = json.loads(json.dumps(asdict(config)))
    neutral = json.loads(json.dumps(asdict(SessionConfig())))
    there = {**neutral, **completed(start.config)}
    before: dict[str, Any] = {name: there[name] for name in _SPACES}
    if before == {name: now[name] for name in _SPACES}:
        return
    trusted = [module_of(each) for each in (config.env_id, *config.wrapper)]
    try:
        names = [before["env_id"], *(before["wrapper"] or ())]
        if not all(is_free(each, sys.modules) or module_of(each) in trusted for each in names):
            return
        theirs = _spaces(replace(config, **{**before, "wrapper": tuple(before["wrapper"] or ())}))
    except Exception:  # an environment of another time or place; the shapes of the tensors are left to compare
        return
    for reads, old, new in zip(("reads observations", "gives actions"), theirs, _spaces(config), strict=True):
        if old != new:
            whose = "policy" if start.takes("policy") else "critic"
            others = [f"{name} {now[name]}" for name in _SPACES[1:] if now[name] != before[name]]
            where = f"{config.env_id}{' with ' if others else ''}{' and '.join(others)}"
            raise ConfigError(f"the {whose} of {start.path} {reads} {old}, and {where} has {new}")


def _spaces(config: SessionConfig) -> tuple[str, str]:
    """What is observed, and what actions are, in words."""
    one = replace(config.env, num_envs=1, backend="auto")
    with GlobalRandom().kept(), contextlib.closing(make_env_of_any_size(one)) as env:
        dims = len(env.batch_size)
        seen, actions = observed_leaves(env.observation_spec), dict(env.full_action_spec.items(True, True))
        return _described(seen, dims), _described(actions, dims)


def _described(leaves: Mapping[Any, TensorSpec], dims: int) -> str:
    each = {key if isinstance(key, str) else ".".join(key): _in_words(spec, dims) for key, spec in leaves.items()}
    return next(iter(each.values())) if len(each) == 1 else ", ".join(f"{key} {words}" for key, words in each.items())


def _in_words(spec: TensorSpec, dims: int) -> str:
    shape = spec.shape[dims:]
    if isinstance(spec, Categorical) and not isinstance(spec, Binary):
        return f"MultiDiscrete({nvec_of(spec, dims).tolist()})" if shape else f"Discrete({int(spec.space.n)})"
    kind = kind_of(spec)
    return f"{list(shape)}{'' if kind == 'a Box' and spec.dtype.is_floating_point else f' of {kind} {spec.dtype}'}"
