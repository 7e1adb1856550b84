"""Checks of the types and bounds of Config fields."""

from __future__ import annotations

import dataclasses
import functools
import sys
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from rlpipe.errors import ConfigError, shown

MANY = 2**62
"""Upper bound of counts, such as frames: int64 holds sums of it."""
LARGEST = 1e38
"""Upper bound of numbers in computations: about the largest of float32."""


def number(
    default: Any,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    at_most_numbers: int | None = None,
) -> Any:
    """A numeric field with bounds, which every Config checks when it is made.

    A subclass that overrides the field with a plain default keeps the bounds. Give an upper bound to a number that
    decides how much memory is taken, so that a typing error is refused instead of filling it.

    Args:
        default: of the field: a number, a tuple of them, or `None`.
        at_least: for each number.
        above: the same, without equality.
        at_most: for each number.
        at_most_numbers: in a tuple.
    """
    bounds = {"at_least": at_least, "above": above, "at_most": at_most, "at_most_numbers": at_most_numbers}
    return dataclasses.field(default=default, metadata=bounds)


@dataclasses.dataclass(frozen=True)
class CheckedConfig:
    """The base of Configs and of their groups: every field is checked when one is made.

    Raises:
        ConfigError: a field has the wrong type or a value that is not allowed.
    """

    def __post_init__(self) -> None:
        check_fields(self)
        self.check()
        self.validate()

    def check(self) -> None:
        """Check the fields of a group against each other; groups extend it, and call that of their bases."""

    def validate(self) -> None:
        """Check fields against each other; algorithms override it."""


def check_fields(config: Any) -> None:
    """Check the type and the bounds of every field of a frozen dataclass; whole numbers in float fields become floats.

    Raises:
        ConfigError: names the first field with a value that is not allowed.
    """
    cls: Any = type(config)
    for name, hint in hints_of(cls).items():
        value = getattr(config, name)
        if not _matches(value, hint):
            listed = get_origin(hint) is Literal
            expected = f"allowed are {', '.join(map(str, get_args(hint)))}" if listed else f"expected {_words(hint)}"
            raise ConfigError(f"{name} is {shown(value)}; {expected}")
        # whole numbers would become tensors of another type
        object.__setattr__(config, name, _converted(value, hint))
    for each in dataclasses.fields(config):
        _check_bounds(each.name, getattr(config, each.name), bounds_of(cls, each.name))


hints_of = functools.cache(get_type_hints)
"""The types of fields by name; cached, because evaluating the texts of annotations takes longer than all checks."""


@functools.cache
def bounds_of(cls: type, name: str) -> Mapping[str, float | None]:
    """The bounds of a field: its own, or those of the field that it overrides with another default."""
    fields = (vars(each).get("__dataclass_fields__", {}).get(name) for each in cls.__mro__)
    return next((field.metadata for field in fields if field is not None and field.metadata), {})


def _matches(value: Any, hint: Any) -> bool:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        # the type first: comparing an array gives an array, and True is 1
        return any(type(value) is type(arg) and value == arg for arg in args)
    if origin in (Union, types.UnionType):
        return any(_matches(value, arg) for arg in args)
    if origin is tuple:
        fits = isinstance(value, tuple) and (args[-1:] == (...,) or len(value) == len(args))
        return fits and all(map(_matches, value, _hints_in(args, len(value))))
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    # what is in a dict or list is not looked at, and what is no class, such as `Any`, allows everything
    kind = hint if origin is None else origin
    return kind is Any or not isinstance(kind, type) or isinstance(value, kind)


def _hints_in(args: tuple[Any, ...], count: int) -> tuple[Any, ...]:
    """The hint of each of `count` items of a tuple, from `tuple[int, ...]` or `tuple[int, float]`."""
    return args[:1] * count if args[-1:] == (...,) else args


def _converted(value: Any, hint: Any) -> Any:
    """`value`, which matches `hint`, with floats where the hint has them."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _converted(value, next(arg for arg in args if _matches(value, arg)))
    if origin is tuple:
        return tuple(map(_converted, value, _hints_in(args, len(value))))
    return float(value) if hint is float else value


def _words(hint: Any) -> str:
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_words(arg) for arg in get_args(hint))
    if get_origin(hint) is tuple:
        args = get_args(hint)
        each = f"each {_words(args[0])}" if args[-1:] == (...,) else ", ".join(map(_words, args))
        return f"a tuple, {each}" if args[-1:] == (...,) else f"a tuple of {len(args)}: {each}"
    names = {
        int: "a whole number",
        float: "a finite number",
        bool: "true or false",
        str: "text",
        types.NoneType: "none",
    }
    return names.get(hint, str(hint))


def check_number(cls: type, name: str, value: float) -> None:
    """Check a number against the bounds of a field.

    Raises:
        ConfigError: it is not allowed.
    """
    _check_bounds(name, value, bounds_of(cls, name))


def _check_bounds(name: str, value: Any, bounds: Mapping[str, float | None]) -> None:
    if value == () and bounds:
        raise ConfigError(f"{name} is empty; expected at least one number")
    most = bounds.get("at_most_numbers")
    if most is not None and isinstance(value, tuple) and len(value) > most:
        raise ConfigError(f"{name} has {len(value)} numbers; allowed is at most {most}")
    at_least, above, at_most = bounds.get("at_least"), bounds.get("above"), bounds.get("at_most")
    for item in value if isinstance(value, tuple) else (value,):
        if item is None:
            continue
        rules = [
            (at_least is not None and item < at_least, f"{at_least} or more"),
            (above is not None and item <= above, f"more than {above}"),
            (at_most is not None and item > at_most, f"at most {at_most}"),
        ]
        if any(broken for broken, _ in rules):
            limits = (at_least, above, at_most)
            allowed = " and ".join(words for (_, words), limit in zip(rules, limits, strict=True) if limit is not None)
            raise ConfigError(f"{name} is {shown(item)}; allowed is {allowed}")
