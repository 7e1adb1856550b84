"""Each public name has a docstring and an entry in the reference."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

import rlpipe

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
FOLDERS = {
    "rlpipe.losses": "losses",
    "rlpipe.modules": "modules",
    "rlpipe.pipelines.envs": "pipelines/envs",
    "rlpipe.losses.functional": "losses/functional.py",
    "rlpipe.errors": "rlpipe/errors.py",
}


def documented(place):
    """Return the names with a docstring in a folder or a file: classes, functions and variables."""
    files = [place] if place.is_file() else place.rglob("*.py")
    names = set()
    for file in files:
        body = ast.parse(file.read_text()).body
        for node, after in zip(body, [*body[1:], None], strict=True):
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node):
                names.add(node.name)
            if isinstance(node, ast.Assign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


def public(module):
    """Return a module's `__all__`, or the public names that it defines."""
    if hasattr(module, "__all__"):
        return {name for name in module.__all__ if name != "functional"}
    tree = ast.parse(Path(module.__file__).read_text())
    names = {node.name for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
    names |= {target.id for node in tree.body if isinstance(node, ast.Assign) for target in node.targets}
    return {name for name in names if not name.startswith("_")}


@pytest.mark.parametrize("name", FOLDERS)
def test_public_names_are_documented(name):
    there = documented(ROOT / FOLDERS[name]) | documented(ROOT / "rlpipe" / "kinds.py")
    assert public(importlib.import_module(name)) <= there


@pytest.mark.parametrize("name", FOLDERS)
def test_modules_are_in_the_reference(name):
    text = "\n".join(page.read_text() for page in REFERENCE.glob("*.md"))
    assert re.search(rf"^::: {re.escape(name)}$", text, re.MULTILINE)


def test_the_front_door_lists_its_names_and_where_they_are():
    """The build of the site fails if the reference lacks the target of a link."""
    page = (REFERENCE / "rlpipe.md").read_text()
    listed = dict(re.findall(r"^\| \[`(\w+)`\]\[([\w.]+)\] \|", page, re.MULTILINE))
    assert {*listed, "__version__"} == set(rlpipe.__all__)
    for name, place in listed.items():
        module, _, last = place.rpartition(".")
        assert getattr(importlib.import_module(module), last) is getattr(rlpipe, name)


@pytest.mark.parametrize("name", sorted({*rlpipe.__all__} - {"__version__"}))
def test_the_documented_arguments_are_those_of_the_signature(name):
    public = getattr(rlpipe, name)
    listed = re.search(r"^ *Args:\n(.*?)(?=^ *\w+:\n|\Z)", inspect.getdoc(public) or "", re.DOTALL | re.MULTILINE)
    if listed is None:
        return
    parameters = inspect.signature(public).parameters
    # other arguments are those of an overload, or of what it is handed to
    if not any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        assert set(re.findall(r"^ {4}(\w+):", listed[1], re.MULTILINE)) <= set(parameters)
