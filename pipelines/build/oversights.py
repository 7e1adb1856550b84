"""What is said of mistakes in a user's algorithm: warnings of what it may have forgotten, and errors in one line."""

from __future__ import annotations

import contextlib
import dataclasses
import linecache
import logging
import re
import traceback
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rlpipe.errors import ConfigError
from rlpipe.pipelines.config.run import RunConfig

_LOG = logging.getLogger("rlpipe")
_OURS = ("torch", "torchrl", "tensordict", "rlpipe")


@contextlib.contextmanager
def misuse_in_one_line(place: str, files: Iterable[Path]) -> Iterator[None]:
    """Turn what rlpipe says about wrong arguments into one line that names the user's line; any other error passes.

    Args:
        place: the algorithm, as the user names it.
        files: of the algorithm.

    Raises:
        ConfigError: in place of a `ValueError` or `TypeError` that a `raise` of rlpipe's has made.
    """
    try:
        yield
    except (ValueError, TypeError) as error:
        calls = list(traceback.walk_tb(error.__traceback__))
        frame, line = calls[-1]
        is_ours = str(frame.f_globals.get("__name__", "")).startswith("rlpipe.")
        if not is_ours or not linecache.getline(frame.f_code.co_filename, line).strip().startswith("raise "):
            raise
        own = {str(each) for each in files}
        lines = [(call.f_code.co_filename, line) for call, line in calls if call.f_code.co_filename in own]
        where = f"{Path(lines[-1][0]).name}, line {lines[-1][1]}" if lines else place
        raise ConfigError(f"{where}: {' '.join(str(error).split())}") from error


def recording(config: Any, read: set[str]) -> Any:
    """A copy of a dataclass that adds the names of the attributes that are read of it to `read`.

    One without a `__dict__` is returned as it is, as if everything was read.
    """
    kind = type(config)
    names = {each.name for each in dataclasses.fields(config)}
    if not hasattr(config, "__dict__"):
        read |= names
        return config

    class Recorded(kind):  # type: ignore[valid-type, misc]
        def __getattribute__(self, name: str) -> Any:
            if name in names:
                read.add(name)
            elif name == "__dict__":
                read.update(names)
            return super().__getattribute__(name)

        def __reduce_ex__(self, protocol: Any) -> Any:
            # another process, which unpickles it, does not have this class
            read.update(names)
            return config.__reduce_ex__(protocol)

    Recorded.__name__, Recorded.__qualname__, Recorded.__module__ = kind.__name__, kind.__qualname__, kind.__module__
    copy = object.__new__(Recorded)
    object.__getattribute__(copy, "__dict__").update(vars(config))
    return copy


def warn_of_unread(config: Any, default: Any, read: set[str], files: Iterable[Path]) -> None:
    """Warn of options that differ from their default, and that neither `build` nor training reads.

    Args:
        config: of the run.
        default: the Config's default values.
        read: what was read of the config during `build`.
        files: the user's; what is read there, as `config.x` or by its name in quotes, may be read later.
    """
    texts = [each.read_text(errors="replace") for each in files]
    known = {*read, *(each.name for each in dataclasses.fields(RunConfig)), "env_id"}
    given = [
        each.name
        for each in dataclasses.fields(config)
        if each.name not in known
        and not each.name.startswith("eval_")
        and getattr(config, each.name) != getattr(default, each.name)
        and not any(re.search(rf"(?:\.|[\"']){each.name}\b", text) for text in texts)
    ]
    if given:
        options = " and ".join(f"--{name.replace('_', '-')}" for name in given)
        reads = " and ".join(f"config.{name}" for name in given)
        _LOG.warning("rlpipe: %s changes nothing: build does not read %s", options, reads)


def warn_of_no_memory(config: Any, default: Any) -> None:
    """Warn of a size that was given for a memory that the policy does not have.

    Args:
        config: of the run.
        default: of its recipe.
    """
    if getattr(config, "recurrent", "") is None and config.recurrent_size != default.recurrent_size:
        _LOG.warning("rlpipe: --recurrent-size changes nothing without a memory: --recurrent gru or lstm")


def warn_of_unlearned(policy: nn.Module, state: Mapping[str, Any]) -> None:
    """Warn of parameters of the policy or of another part that take a gradient, and are in no optimizer.

    Says nothing if a part is of a class of the user's, which may hold optimizers, or if there is no optimizer.
    """
    parts = {"policy": policy, **state}
    optimizers = [each for each in parts.values() if isinstance(each, torch.optim.Optimizer)]
    closed = [each for each in parts.values() if not isinstance(each, nn.Module) and not _is_ours(each)]
    if not optimizers or closed:
        return
    held = {id(each) for optimizer in optimizers for group in optimizer.param_groups for each in group["params"]}
    named: dict[int, str] = {}
    for part, module in parts.items():
        for name, each in module.named_parameters() if isinstance(module, nn.Module) else ():
            if each.requires_grad and id(each) not in held:
                named.setdefault(id(each), f"{part}.{name}")
    if named:
        first = next(iter(named.values()))
        others = f" and {len(named) - 1} more" if len(named) > 1 else ""
        _LOG.warning(
            "rlpipe: %s%s will not learn: no optimizer holds them; add them to one, or freeze them with "
            "requires_grad_(False)",
            first,
            others,
        )


def _is_ours(part: Any) -> bool:
    return type(part).__module__.split(".")[0] in _OURS
