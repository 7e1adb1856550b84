"""Modules that users name: imported, or refused with the reason. Imports nothing heavy."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

from rlpipe.errors import ConfigError


def import_module(module: str, option: str) -> ModuleType:
    """Import a module.

    Args:
        module: its name.
        option: that named it, with its value, for messages.

    Raises:
        ConfigError: there is none of this name, or it fails to be imported, for whatever reason.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise ConfigError(f"{option}: the module {module!r} cannot be imported: {reason_of(error)}") from error
        raise ConfigError(f"{option}: there is no module {module!r}{_hint(module)}") from error
    except (Exception, SystemExit) as error:  # its code may do anything
        raise ConfigError(f"{option}: the module {module!r} cannot be imported: {reason_of(error)}") from error


def reason_of(error: BaseException) -> str:
    """An exception in one line: its type, and the first line of what it says."""
    first = (str(error).strip().splitlines() or [""])[0]
    kind = type(error).__name__
    if isinstance(error, SystemExit):
        return f"it ended the program, SystemExit: {first}".removesuffix(": ")
    return f"{kind}: {first}" if first else kind


def _hint(name: str) -> str:
    """Where the module may be meant to be."""
    if name.endswith(".py") or "/" in name or "\\" in name:
        return f"; a module is named without its folder and '.py', such as {Path(name).stem!r}"
    here = Path(*name.split("."))
    if here.with_suffix(".py").is_file() or here.is_dir():
        return "; it lies in this folder, where Python does not look: set PYTHONPATH=. in front of the command"
    return "; install it, or name its folder in PYTHONPATH"


def module_of(env_id: Any) -> str:
    """The module that an environment's id names (`module:Env-v0`), or nothing."""
    return str(env_id).rpartition(":")[0]
