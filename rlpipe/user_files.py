"""Python files that users name, as modules. Imports nothing heavy."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType

from rlpipe.errors import ConfigError
from rlpipe.user_modules import import_module, reason_of

_LARGEST_SOURCE = 10_000_000
_FILE = re.compile(r"(?P<file>.*\.py)(?::(?P<name>[A-Za-z_][\w.]*))?")
_LOADED: dict[Path, tuple[str, ModuleType]] = {}
"""The files that were loaded, with the digest of their source then."""
_MODULES: set[str] = set()
"""The modules that were imported for an algorithm."""


def split_file(text: str) -> tuple[Path, str] | None:
    """The file and the name in `FILE.py` or `FILE.py:name`, whose name is empty without; `None` for other text."""
    found = _FILE.fullmatch(text)
    return (Path(found["file"]), found["name"] or "") if found else None


def has_run(place: Path | str) -> bool:
    """Whether this process has run an algorithm from this file, or module, already."""
    return place in _MODULES if isinstance(place, str) else place.resolve() in _LOADED


def import_algorithm(module: str, option: str) -> ModuleType:
    """Import a module that the user has named for its algorithm; raises the errors of `import_module`."""
    imported = import_module(module, option)
    _MODULES.add(module)
    return imported


def check_trusted_files(names: Iterable[str]) -> None:
    """Refuse a file of `--trust-module` that does not exist, before anything is said of what is not trusted."""
    for name in names:
        if name.endswith(".py") and not Path(name).is_file():
            raise ConfigError(f"trust-module: there is no file {name}")


def load_trusted(names: Iterable[str]) -> None:
    """Import what `--trust-module` names: modules, and files.

    Raises:
        ConfigError: one of them cannot be imported.
    """
    for name in filter(None, names):
        if name.endswith(".py"):
            load_file(Path(name), "trust-module")
        else:
            import_module(name, "trust-module")


def loaded_modules() -> list[ModuleType]:
    """The modules of the files that were loaded, and of what these import from their folders."""
    files = {str(each) for path in _LOADED for each in _sources(path, path.parent)}
    return [module for module in list(sys.modules.values()) if getattr(module, "__file__", None) in files]


def load_file(path: Path, option: str) -> ModuleType:
    """Run a file and return its module; it is run again only if its source has changed.

    As for a script, Python searches its folder first; the module is named after the file, so that other processes find
    it.

    Raises:
        ConfigError: there is no such file, its name is that of another module, or running it fails.
    """
    if not path.is_file():
        raise ConfigError(f"{option}: there is no file {path}")
    path = path.resolve()
    digest = digest_of(path, path.parent)
    known = sys.modules.get(path.stem)
    if path not in _LOADED and known is not None and getattr(known, "__file__", None) == str(path):
        # imported by a program in the same folder
        _LOADED[path] = digest, known
    if path in _LOADED and _LOADED[path] == (digest, known):
        return _LOADED[path][1]
    if not path.stem.isidentifier() or _is_taken(path):
        why = "is the name of another module" if path.stem.isidentifier() else "cannot be the name of a module"
        raise ConfigError(f"{option}: {path.stem!r}, the name of {path} without .py, {why}; rename the file")
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    if path in _LOADED:
        _forget(_sources(path, path.parent))
    module = _run(path, option)
    _LOADED[path] = digest, module
    return module


def _is_taken(path: Path) -> bool:
    """Whether another module has the name of the file, which is not that of a user's file either."""
    if path.stem in sys.stdlib_module_names:
        return True
    known = sys.modules.get(path.stem)
    file = getattr(known, "__file__", None)
    return known is not None and not (file and (Path(file) == path or Path(file) in _LOADED))


def _forget(files: set[Path]) -> None:
    """Let files be run again when they are imported."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and Path(file) in files:
            del sys.modules[name]


def _run(path: Path, option: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module, before = importlib.util.module_from_spec(spec), sys.modules.get(path.stem)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # its code may raise anything
        if before is None:
            del sys.modules[path.stem]
        else:
            sys.modules[path.stem] = before
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{option}: {path} cannot be loaded: {reason_of(error)}{_line_in(path, error)}") from error
    return module


def _line_in(path: Path, error: BaseException) -> str:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path]
    return f" (line {lines[-1]})" if lines else ""


def digest_of(path: Path, root: Path) -> str:
    """Digest of the source of a file, and of the files below `root` that it imports, directly or through others."""
    files = sorted(_sources(path, root))
    return digest([part for file in files for part in (os.path.relpath(file, root).encode(), content(file))])


def files_of(path: Path) -> list[Path]:
    """A file, and those that it imports from its folder."""
    path = path.resolve()
    return sorted(_sources(path, path.parent))


def _sources(path: Path, root: Path) -> set[Path]:
    found, left = {path}, [path]
    while left:
        new = [each for each in _imported(left.pop(), root) if each not in found]
        found.update(new)
        left += new
    return found


def _imported(path: Path, root: Path) -> Iterator[Path]:
    """The files below `root` that a file imports."""
    try:
        tree = ast.parse(content(path))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        # importing it reports the error
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for each in node.names:
                yield from _files_of(root, each.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            base = root if not node.level else path.parents[min(node.level, len(path.parents)) - 1]
            parts = node.module.split(".") if node.module else []
            yield from _files_of(base, parts)
            for each in node.names:
                yield from _files_of(base, [*parts, each.name])


def _files_of(folder: Path, parts: Sequence[str]) -> Iterator[Path]:
    """The files of a module, and those of the packages it is in, if they are below `folder`."""
    for end in range(1, len(parts) + 1):
        place = folder.joinpath(*parts[:end])
        for file in (place.with_suffix(".py"), place / "__init__.py"):
            if file.is_file():
                yield file


def content(path: Path) -> bytes:
    """The first ten million bytes of a source file."""
    with path.open("rb") as stream:
        return stream.read(_LARGEST_SOURCE)


def digest(parts: Sequence[bytes]) -> str:
    """Digest of parts in their order, 16 hexadecimal digits."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(len(part).to_bytes(8, "little") + part)
    return whole.hexdigest()[:16]
