"""Importing modules that users name. Imports nothing heavy."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

from rlpipe.errors import ConfigError, first_line


def import_module(module: str, option: str) -> ModuleType:
    """Import a module that an option, with its value, has named.

    Raises:
        ConfigError: there is no such module, or importing it fails.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise ConfigError(f"{option}: the module {module!r} cannot be imported: {reason_of(error)}") from error
        raise ConfigError(f"{option}: there is no module {module!r}{_hint(module)}") from error
    except (Exception, SystemExit) as error:  # its code may raise anything
        raise ConfigError(f"{option}: the module {module!r} cannot be imported: {reason_of(error)}") from error


def reason_of(error: BaseException) -> str:
    """An exception in one line: its type, and the first line of its message."""
    first, kind = first_line(error), type(error).__name__
    text = kind if first == kind else f"{kind}: {first}"
    return f"it ended the program, {text}" if isinstance(error, SystemExit) else text


def _hint(name: str) -> str:
    """Where the module may be, and how to let Python find it."""
    if name.endswith(".py") or "/" in name or "\\" in name:
        return f"; name a module without its folder and '.py', such as {Path(name).stem!r}"
    here = Path(*name.split("."))
    if here.with_suffix(".py").is_file() or here.is_dir():
        return "; it is in this folder, which Python does not search: put PYTHONPATH=. in front of the command"
    return "; install it, or add its folder to PYTHONPATH"


def module_of(env_id: Any) -> str:
    """The module in an environment's id (`module:Env-v0`); empty if it has none."""
    return str(env_id).rpartition(":")[0]
