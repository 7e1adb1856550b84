"""Rules of each example: sixty lines, public names, a `Config` and a `build`, or a `main` that takes a seed."""

import ast
import importlib
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))
FRONT_DOORS = ("rlpipe", "rlpipe.losses", "rlpipe.losses.functional", "rlpipe.modules")
OTHERS = {"torch", "torchrl", "tensordict", "gymnasium", "numpy", "optuna"}
STANDARD = {"collections", "contextlib", "dataclasses", "datetime", "functools", "math", "pathlib"}


def imported(source):
    """Yield pairs of a module and a name imported from it, or None."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module, alias.name) for alias in node.names)


def is_public(module, name):
    if module.split(".")[0] in OTHERS | STANDARD:
        return not any(part.startswith("_") for part in f"{module}.{name}".split("."))
    if module not in FRONT_DOORS:
        return False
    offered = importlib.import_module(module)
    # the equations have no `__all__`: names without a leading underscore are public
    names = getattr(offered, "__all__", [each for each in vars(offered) if not each.startswith("_")])
    return name is None or name in names


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path):
    source = path.read_text()
    assert len(source.splitlines()) <= 60
    assert ast.get_docstring(ast.parse(source))
    wrong = [f"{module}: {name}" for module, name in imported(source) if not is_public(module, name)]
    assert not wrong, "these are not public"
    defined = {node.name for node in ast.parse(source).body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    assert defined >= {"Config", "build"} or path.stem == "optuna_search"
    # the command that trains it stands in its docstring
    assert path.stem == "optuna_search" or f"`rlpipe train examples/{path.name}" in source


@pytest.mark.parametrize(
    "text", ["import rlpipe.pipelines.runs.run", "from rlpipe.losses.base.terms import column", "import os"]
)
def test_what_is_not_public_is_found(text):
    assert not all(is_public(module, name) for module, name in imported(text))


def test_attributes_of_the_front_door_are_public():
    offered = importlib.import_module("rlpipe")
    for path in EXAMPLES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "rlpipe":
                assert node.attr in offered.__all__, f"{path.name}: rlpipe.{node.attr}"
