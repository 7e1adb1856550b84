"""The help of a command: its options in groups, from the fields of a dataclass and the texts below them."""

from __future__ import annotations

import ast
import functools
import inspect
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

GROUPS = (
    *("run", "environment", "algorithm", "exploration", "replay", "network", "optimiser"),
    *("evaluation", "output", "collection", "Ray", "options"),
)
"""The groups in their order; a class names that of its fields by `help_group`, and else they are the algorithm's."""
_VALUES = {
    "every": "FRAMES",
    "frames": "FRAMES",
    "episodes": "EPISODES",
    "return": "RETURN",
    "mean": "RETURN",
    "steps": "STEPS",
    "from": "RUN",
    "paths": "RUN",
    "out": "FILE",
    "config": "FILE",
    "plot": "FILE",
    "jobs": "N|ray",
    "memory": "MIB",
    "info": "KEY",
    "take": "PART",
    "against": "NAMES",
    "random": "ENV-ID",
    "target_every": "UPDATES",
    "dir": "FOLDER",
}
"""What stands for the value of an option, by its name or the last word of it."""
_LAST = ("trust_module", "json")
"""Options that most commands have, behind their own."""
_COLUMN = 28
_GLUE = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class Option:
    """An option of a command, from a field of a dataclass."""

    field: str
    hint: Any
    default: Any
    group: str
    family: tuple[type, ...]

    @property
    def is_positional(self) -> bool:
        """Whether it is given without its name."""
        return get_origin(self.hint) is Annotated

    @property
    def takes_none(self) -> bool:
        """Whether `none` is a value of it."""
        return NoneType in get_args(self.hint)

    @property
    def takes_whole(self) -> bool:
        """Whether a whole number is a value of it."""
        return int in (self.hint, *get_args(self.hint))

    @property
    def name(self) -> str:
        """As it is typed, without `--`; one that is on by default is called `no-...`."""
        return ("no-" if self.default is True else "") + self.field.replace("_", "-")

    @property
    def value(self) -> str:
        """What stands for its value, such as `FRAMES|none`; nobody types `none` if that is the default."""
        word = self.field.rpartition("_")[2]
        text = _value(self.hint, _VALUES.get(self.field, _VALUES.get(word, "")), word.upper())
        return text.removesuffix("|none") if self.default is None else text

    @property
    def spelled(self) -> str:
        """The option with what stands for its value."""
        return self.value.strip("[]") if self.is_positional else f"--{self.name} {self.value}".rstrip()

    @property
    def text(self) -> str:
        """What it does, in the words of the class that says so."""
        return next(filter(None, (_texts(each).get(self.field) for each in self.family)), "")

    def explained(self, names: Mapping[str, str]) -> str:
        """What it does, and its default; other fields are called as they are typed."""
        choices = re.findall(r"\w+", self.value)
        others = {field: f"--{name}" for field, name in names.items() if field not in choices}
        text = re.sub("`([^`]*)`", lambda found: others.get(found[1], found[1]), self.text)
        if self.default is True:
            return f"Switch off: {text[:1].lower()}{text[1:]}" if text else f"Switch {self.field} off."
        values = self.default if isinstance(self.default, tuple) else (self.default,)
        default = " ".join(str(each).removesuffix(".0") if isinstance(each, float) else str(each) for each in values)
        is_told = self.default is None or self.default is False or default in ("", "{}")
        return text if is_told else f"{text} (default:{_GLUE}{default})".lstrip()


def _value(hint: Any, known: str, word: str) -> str:
    """What stands for a value of this type: choices, what is `known` to stand for it, or a word for its type."""
    args = get_args(hint)
    if get_origin(hint) is Annotated:
        return f"[{_value(args[0], known, word)}]"
    if get_origin(hint) is Literal:
        return "|".join(map(str, args))
    if get_origin(hint) in (Union, UnionType):
        return "|".join("none" if each is NoneType else _value(each, known, word) for each in args)
    if get_origin(hint) is tuple:
        each = [_value(each, known, word) for each in args if each is not ...]
        return " ".join([*each, "..."] if ... in args else each)
    if hint is bool:
        return ""
    return known or {int: "N", float: "NUMBER", Path: "PATH", str: word}.get(hint, "JSON")


def options_of(holder: Any) -> list[Option]:
    """The options of a dataclass, and those of its field `config`, which is a dataclass too."""
    kind = holder if isinstance(holder, type) else type(holder)
    return list(_options(holder, "options", kind.__mro__))


def _options(holder: Any, group: str, family: Sequence[type]) -> Iterator[Option]:
    """The options of a dataclass; classes of the `family` bring fields in, and say what they are and their group."""
    kind = holder if isinstance(holder, type) else type(holder)
    hints = get_type_hints(kind, include_extras=True)
    for each in sorted(fields(kind), key=lambda each: each.name != "config"):
        name, default = each.name, getattr(holder, each.name, each.default)
        if name == "config":
            # a Config may have a field that a run reads without inheriting it
            from rlpipe.pipelines.config.run import SessionConfig

            yield from _options(default, "algorithm", (*type(default).__mro__, *SessionConfig.__mro__))
            # by its own name, a file that holds it
            hints[name], default = Path, None
        owner = next(each for each in reversed(family) if name in vars(each).get("__dataclass_fields__", ()))
        named = vars(owner).get("help_group", group)
        yield Option(name, hints[name], default, named if named in GROUPS else group, tuple(family))


@functools.cache
def _texts(kind: type) -> Mapping[str, str]:
    """What is written below the fields of a class, or behind them as a comment."""
    try:
        source = textwrap.dedent(inspect.getsource(kind))
        body = ast.parse(source).body[0].body  # type: ignore[attr-defined]
    except (OSError, TypeError, SyntaxError):
        return {}
    texts = {}
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            _, _, text = source.splitlines()[(node.end_lineno or 1) - 1][node.end_col_offset :].partition("#")
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                text = str(after.value.value)
            texts[node.target.id] = " ".join(text.split())
    return texts


def help_of(options: Sequence[Option], prog: str, description: str) -> str:
    """The whole help of a command."""
    names = {each.field: each.name for each in options}
    arguments = "".join(f" {each.value}" for each in options if each.is_positional)
    parts = [f"usage: {prog}{arguments} [options]", filled(description)]
    present = [group for group in GROUPS if any(each.group == group for each in options)]
    options = sorted(options, key=lambda each: each.field in _LAST)
    for group in present:
        rows = [(each.spelled, each.explained(names)) for each in options if each.group == group]
        parts.append("\n".join([heading(group), *listed(rows)]))
    parts.append("\n".join(listed([("-h, --help", "Show this help.")])))
    return "\n\n".join(parts).replace(_GLUE, " ") + "\n"


def listed(rows: Sequence[tuple[str, str]], column: int = _COLUMN) -> list[str]:
    """Names and what they are, in two columns that fit the terminal."""
    lines = []
    for name, text in rows:
        first, *rest = textwrap.wrap(text, _width() - column, break_on_hyphens=False) or [""]
        fits = len(name) + 4 <= column
        lines += [f"  {name.ljust(column - 2)}{first}".rstrip()] if fits else [f"  {name}", " " * column + first]
        lines += [" " * column + each for each in rest]
    return lines


def filled(text: str) -> str:
    """A paragraph that fits the terminal."""
    return textwrap.fill(" ".join(text.split()), _width(), break_on_hyphens=False)


def heading(text: str) -> str:
    """A heading, bold on a terminal."""
    plain = not (sys.__stdout__ and sys.__stdout__.isatty()) or "NO_COLOR" in os.environ
    return text if plain else f"\x1b[1m{text}\x1b[0m"


def _width() -> int:
    return max(40, min(shutil.get_terminal_size().columns, 120))
