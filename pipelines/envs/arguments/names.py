"""Names of what a config is given as an object, and arguments, so that `config.json` holds both as text.

Worker processes import this module, so it must not import PyTorch.
"""

from __future__ import annotations

import copy
import json
import math
import sys
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

import numpy as np

from rlpipe.errors import ConfigError, first_line, shown
from rlpipe.spelling import nearest
from rlpipe.user_modules import GYMNASIUM_WRAPPERS, UNNAMED, UNWRITTEN, import_module, inside

_SCRIPTS = ("__main__", "__mp_main__")


class Named(str):
    """The name of an object that a config was given, with the object itself.

    The name is `module:name` if the object can be found by it; else it begins with `<`, as in `<lambda>`.

    Args:
        name: what `config.json` holds.
        given: the object.
    """

    given: Any

    def __new__(cls, name: str, given: Any) -> Named:
        named = super().__new__(cls, name)
        named.given = given
        return named

    def __eq__(self, other: object) -> bool:
        return str.__eq__(self, other) is True and (not isinstance(other, Named) or self.given is other.given)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__

    def __deepcopy__(self, memo: dict[int, Any]) -> Named:
        return self

    def __reduce__(self) -> Any:
        return Named, (str(self), self.given)


class Arguments(dict[str, Any]):
    """Keyword arguments, which nobody can change: a copy of the caller's, and each use gets copies of the values.

    JSON values are held as they are (NumPy's numbers become Python's); any other value, such as an array, as the
    `Named` text that `config.json` gets in its place.

    Args:
        given: the arguments by name, or pairs.

    Raises:
        ConfigError: a name is not text, or a value cannot be copied.
    """

    def __init__(self, given: Mapping[str, Any] | Iterable[tuple[str, Any]] = ()) -> None:
        super().__init__({_checked(name): _plain(name, value) for name, value in dict(given).items()})

    def given(self) -> dict[str, Any]:
        """The arguments to call with, in new copies."""
        return {name: copy.deepcopy(getattr(value, "given", value)) for name, value in self.items()}

    def unwritten(self) -> list[str]:
        """The names of arguments that `config.json` cannot hold."""
        return [name for name, value in self.items() if isinstance(value, str) and value.startswith(UNWRITTEN)]

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("the arguments of a config cannot be changed; make a new config with dataclasses.replace")

    __setitem__ = __delitem__ = update = pop = popitem = clear = setdefault = __ior__ = _refuse

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self))

    def __reduce__(self) -> Any:
        return Arguments, (dict(self),)


def as_arguments(given: Any, what: str) -> Arguments:
    """`Arguments` of a mapping; anything else is a `ConfigError` that names `what`."""
    if isinstance(given, Arguments):
        return given
    if not isinstance(given, Mapping):
        raise ConfigError(f"{what} is {shown(given)}; expected a dict of arguments by name")
    try:
        return Arguments(given)
    except ConfigError as error:
        raise ConfigError(f"{what} {error}") from error


def read_json(text: str, what: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ConfigError: it is none; names `what`.
    """
    try:
        read = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{what} is {shown(text)}, which is not JSON: {first_line(error)}") from error
    if not isinstance(read, dict):
        raise ConfigError(f"{what} is {shown(text)}; expected a JSON object" + ', such as {"size": 5}')
    return read


def name_of(given: Any) -> str:
    """`module:name` of a class or function that is found there, else a word in `<>`."""
    module, name = getattr(given, "__module__", None), getattr(given, "__qualname__", None)
    if isinstance(module, str) and isinstance(name, str) and module not in _SCRIPTS:
        public = sys.modules.get(GYMNASIUM_WRAPPERS)
        if module.startswith(f"{GYMNASIUM_WRAPPERS}.") and getattr(public, name, None) is given:
            module = GYMNASIUM_WRAPPERS
        if inside(sys.modules.get(module), name) is given:
            return f"{module}:{name}"
    last = (name if isinstance(name, str) else type(given).__qualname__).rpartition(".")[2]
    return f"{UNNAMED}{last.strip('<>')}>"


def find(name: str, what: str) -> Any:
    """The object that `module:name` names; its module is imported.

    Raises:
        ConfigError: there is none; begins with `what`.
    """
    module, _, attribute = name.rpartition(":")
    imported = import_module(module, what)
    found = inside(imported, attribute)
    if found is None:
        near = nearest(attribute, [each for each in vars(imported) if not each.startswith("_")])
        hint = f"; did you mean {module}:{near}?" if near else ""
        raise ConfigError(f"{what}, and the module {module!r} has no {attribute!r}{hint}")
    return found


def _checked(name: Any) -> str:
    if not isinstance(name, str):
        raise ConfigError(f"has the name {shown(name)}; expected text")
    return name


def _plain(name: str, value: Any) -> Any:
    """A copy of a JSON value, else a `Named` text that stands for it."""
    value = value.item() if isinstance(value, (np.bool_, np.integer, np.floating)) else value
    if isinstance(value, Named):
        return value
    try:
        if _is_json(value):
            return _copied(value)
        return Named(f"{UNWRITTEN}{type(value).__name__}>", copy.deepcopy(value))
    except Exception as error:  # an object's own code copies it
        raise ConfigError(
            f"has {name!r}, a {type(value).__name__} that cannot be copied for each environment: {first_line(error)}"
        ) from error


def _is_json(value: Any) -> bool:
    if isinstance(value, (np.bool_, np.integer, np.floating)):
        value = value.item()
    if type(value) is dict:
        return all(type(key) is str and _is_json(each) for key, each in value.items())
    if type(value) is list:
        return all(map(_is_json, value))
    return value is None or type(value) in (bool, int, str) or (type(value) is float and math.isfinite(value))


def _copied(value: Any) -> Any:
    if type(value) is dict:
        return {key: _copied(each) for key, each in value.items()}
    if type(value) is list:
        return [_copied(each) for each in value]
    return value.item() if isinstance(value, np.generic) else value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
