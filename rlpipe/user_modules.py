"""Importing modules that users name. Imports nothing heavy."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Collection
from pathlib import Path
from types import ModuleType
from typing import Any

from rlpipe.errors import ConfigError, first_line

GYMNASIUM_WRAPPERS = "gymnasium.wrappers"
UNNAMED = "<"
"""How the text for an object begins that `module:name` does not name."""
UNWRITTEN = "<not in config.json: "
"""The same for an argument that JSON does not hold."""
_WRITES_FILES = "RecordVideo"


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


def inside(module: Any, name: str) -> Any:
    """What a name, which may have dots, names in a module; `None` if there is no such thing."""
    for part in name.split("."):
        module = getattr(module, part, None)
    return module


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


def module_of(name: Any) -> str:
    """The module in an environment's id (`module:Env-v0`), or in a wrapper (`module:Wrapper {...}`); empty without."""
    return (str(name).split(maxsplit=1) or [""])[0].rpartition(":")[0]


def is_free(name: str, imported: Collection[str]) -> bool:
    """Whether an environment or a wrapper that a run folder names may be made without trust in its module.

    An id may, if its module is imported already: it makes only what that has registered. `module:name` could be any
    function, so it may only be a wrapper of Gymnasium's that writes no files.
    """
    module, attribute = module_of(name), (name.split(maxsplit=1) or [""])[0].rpartition(":")[2]
    if not attribute.replace(".", "").isidentifier():
        return module in imported
    return not module or (module == GYMNASIUM_WRAPPERS and attribute.isidentifier() and attribute != _WRITES_FILES)
