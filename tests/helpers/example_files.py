"""The examples: loaded as modules, and trained by the command that their docstrings have."""

import contextlib
import importlib.util
import io
import json
from pathlib import Path

from rlpipe.scripts.main import run

FOLDER = Path(__file__).parents[2] / "examples"
# the search is a program
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "optuna_search")


def load(name):
    """A fresh module of an example."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def path_of(name):
    """As on the command line."""
    return str(FOLDER / f"{name}.py")


def said(*arguments):
    """Run a command, and return the JSON that it prints, or its text."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert run([*map(str, arguments)]) == 0, arguments
    return json.loads(out.getvalue()) if "--json" in arguments else out.getvalue()


def train(name, folder, *options):
    """`rlpipe train examples/NAME.py`; returns the summary."""
    return said("train", path_of(name), "--run-dir", folder, *options, "--quiet", "--json")
