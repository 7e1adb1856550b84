"""Algorithms of users: a file or a module with a `Config` and a `build`. Imports nothing heavy."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import sys
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from rlpipe.errors import ConfigError, shown
from rlpipe.spelling import nearest
from rlpipe.user_files import digest_of, files_of, import_algorithm, load_file, split_file
from rlpipe.user_modules import inside

if TYPE_CHECKING:
    from rlpipe.pipelines.pipeline import Pipeline

_BUILD = "build"


@dataclass(frozen=True)
class Loaded:
    """An algorithm: its `Config`, a dataclass, `build`, which makes its pipeline, and a line about it."""

    Config: type[Any]
    build: Callable[[Any], Pipeline]
    summary: str


@dataclass(frozen=True)
class Source:
    """Where the algorithm of a user is.

    Args:
        file: that it is in; `None` for a module.
        module: that it is in; the file's name without `.py`.
        name: of `build` there, or of an object that has `Config` and `build`.
    """

    file: Path | None
    module: str
    name: str = _BUILD

    @property
    def place(self) -> str:
        """The file, or the module: what `--trust-module` takes."""
        return self.module if self.file is None else str(self.file)

    @property
    def algorithm(self) -> str:
        """The name in `config.json`, which does not depend on the folder: `td3.py`, `td3.py:name` or `module:name`."""
        if self.file is None:
            return f"{self.module}:{self.name}"
        return self.file.name if self.name == _BUILD else f"{self.file.name}:{self.name}"

    @property
    def text(self) -> str:
        """As on the command line."""
        return self.place if self.file is not None and self.name == _BUILD else f"{self.place}:{self.name}"

    @functools.cached_property
    def digest(self) -> str:
        """Digest of the source, and of what it imports from its folder; of a module, after it was imported."""
        if self.file is not None:
            return digest_of(self.file.resolve(), self.file.resolve().parent)
        file = getattr(sys.modules.get(self.module), "__file__", None)
        if not file or not str(file).endswith(".py"):
            return ""
        # the folder that the outermost package is in
        depth = self.module.count(".") + (Path(file).name == "__init__.py")
        return digest_of(Path(file), Path(file).parents[depth])

    def files(self) -> list[Path]:
        """The source, and what it imports from its folder; none if a module has none."""
        file = self.file or getattr(sys.modules.get(self.module), "__file__", None)
        return files_of(Path(file)) if file and str(file).endswith(".py") else []

    def recipe(self, taken: Collection[str]) -> str:
        """A name for runs and tables, which no recipe has."""
        last = self.module.rpartition(".")[2]
        name = last if self.name == _BUILD else self.name if self.file is None else f"{last}-{self.name}"
        return name if name not in taken else self.algorithm.replace(":", "-")

    def described(self) -> dict[str, Any]:
        """What `config.json` holds."""
        file = None if self.file is None else str(self.file.absolute())
        return {"file": file, "module": self.module, "name": self.name, "digest": self.digest}

    def load(self) -> Loaded:
        """Run the file, or import the module, unless this process has done so.

        Raises:
            ConfigError: it cannot be loaded, or has no Config or build.
        """
        option = f"algorithm {self.text}"
        module = import_algorithm(self.module, option) if self.file is None else load_file(self.file, option)
        return _algorithm_in(module, self)


def named_source(text: str) -> Source | None:
    """The source that `FILE.py`, `FILE.py:name` or `module:name` names; `None` for other text."""
    if (file := split_file(text)) is not None:
        return Source(file[0], file[0].stem, file[1] or _BUILD)
    module, colon, name = text.partition(":")
    words = [*module.split("."), *name.split(".")]
    return Source(None, module, name) if colon and all(word.isidentifier() for word in words) else None


def source_of_run(described: Mapping[str, Any]) -> Source | None:
    """The source in a run's `config.json`; `None` for a recipe."""
    found = described.get("source")
    if not found:
        return None
    return Source(None if found["file"] is None else Path(found["file"]), found["module"], found["name"])


def _algorithm_in(module: ModuleType, source: Source) -> Loaded:
    found, where = inside(module, source.name), source.place
    if found is None:
        near = nearest(source.name, [each for each in vars(module) if not each.startswith("_")])
        hint = (
            f"did you mean {near}?" if near else "an algorithm is a Config, a dataclass, and build(config) -> Pipeline"
        )
        raise ConfigError(f"algorithm {source.text}: {where} has no {source.name!r}; {hint}")
    build = getattr(found, _BUILD, found)
    if not callable(build):
        raise ConfigError(f"algorithm {source.text} is {shown(found)}; expected build(config) -> Pipeline")
    if not _takes_one(build):
        wanted = ", ".join(inspect.signature(build).parameters)
        raise ConfigError(f"algorithm {source.text}: {where} has {source.name}({wanted}); expected {_BUILD}(config)")
    config = getattr(found, "Config", None) or _annotated(build) or getattr(module, "Config", None)
    if not (isinstance(config, type) and dataclasses.is_dataclass(config)):
        what = "has no Config" if config is None else f"has a Config that is {shown(config)}"
        raise ConfigError(f"algorithm {source.text}: {where} {what}; expected a dataclass with its options")
    try:
        typing.get_type_hints(config)
    except Exception as error:  # annotations may be any expressions
        raise ConfigError(f"algorithm {source.text}: the types of Config cannot be read: {error}") from error
    for field in dataclasses.fields(config):
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"algorithm {source.text}: {field.name} of Config has no default; every option needs one")
    text = inspect.getdoc(module) or inspect.getdoc(build) or ""
    return Loaded(config, build, (text.splitlines() or [""])[0].rstrip(". ") or f"the algorithm of {where}")


def _takes_one(build: Callable[..., Any]) -> bool:
    """Whether `build(config)` is possible; true of what has no signature."""
    try:
        signature = inspect.signature(build)
    except (TypeError, ValueError):
        return True
    try:
        signature.bind(None)
    except TypeError:
        return False
    return True


def _annotated(build: Callable[..., Any]) -> Any:
    """The dataclass that the first argument of `build` is annotated with, if there is one."""
    try:
        hints = typing.get_type_hints(build)
        first = next(iter(inspect.signature(build).parameters), None)
    except Exception:  # annotations may be any expressions
        return None
    found = hints.get(first) if first else None
    return found if isinstance(found, type) and dataclasses.is_dataclass(found) else None
