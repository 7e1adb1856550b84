"""Nothing in rlpipe can run code from a file that it reads: every module is searched for what could."""

import ast
from pathlib import Path

import pytest

import rlpipe.losses
import rlpipe.modules
import rlpipe.pipelines
import rlpipe.scripts

MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "code", "runpy"}
CALLS = {"eval", "exec", "compile", "__import__", "execfile"}
ATTRIBUTES = {"yaml.load", "yaml.unsafe_load", "yaml.full_load", "torch.jit.load", "torch.package.PackageImporter"}
ATTRIBUTES |= {"os.system", "os.popen", "pandas.read_pickle", "pd.read_pickle"}
METHODS = {"load_memmap", "load_memmap_", "memmap_like", "read_pickle"}
IMPORTERS = {
    "importlib.import_module(homes[name])",
    "importlib.import_module(f'rlpipe.pipelines.algorithms.{folder}{name}')",
    "importlib.import_module(f'rlpipe.scripts.{command}')",
    "importlib.import_module(f'rlpipe.scripts.benchmarks.{name}')",
    "importlib.import_module(package)",
    "importlib.import_module(module)",
    "import_module(name, 'trust-module')",
    "import_module(module, what)",
    "import_module(module, f'env-id is {env_id!r}')",
    "import_module(module, option)",
    "spec.loader.exec_module(module)",
}
"""Of what is not written out: a table of our own names is asked first, or (the last five) the user, who names a module
or a file by `--trust-module`, as part of an id, or as an algorithm.
"""

GENERATED = {"exec(source, held)"}
"""Of text that is made in the same module, from names and numbers: `pipelines/updates/replay.py`."""


def findings(source):
    """What in a module could run code that is not its own, as it is written there."""
    nodes = list(ast.walk(ast.parse(source)))
    generated = {node.func for node in nodes if isinstance(node, ast.Call) and ast.unparse(node) in GENERATED}
    return [ast.unparse(node) for node in nodes if node not in generated and _is_wrong(node)]


def _is_wrong(node):
    if isinstance(node, ast.Import):
        return any(_is_wrong_module(each.name) for each in node.names)
    if isinstance(node, ast.ImportFrom):
        whole = [f"{node.module}.{each.name}" for each in node.names]
        return any(_is_wrong_module(each) or each in ATTRIBUTES for each in (node.module or "", *whole))
    if isinstance(node, ast.Call):
        return _is_wrong_call(node, ast.unparse(node.func))
    # also where they are only passed on
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in CALLS


def _is_wrong_module(name):
    return name.split(".")[0] in MODULES or name.startswith(("torchrl.checkpoint", "torch.package"))


def _is_wrong_call(node, name):
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    last = name.rpartition(".")[2]
    if name in ATTRIBUTES or last in METHODS or name in ("tensordict.load", "TensorDict.load"):
        return True
    if last in ("import_module", "exec_module"):
        literal = node.args and isinstance(node.args[0], ast.Constant)
        return not literal and ast.unparse(node) not in IMPORTERS
    if name == "torch.load":
        return given.get("weights_only") != "True"
    return given.get("allow_pickle", "False") != "False" or given.get("shell", "False") != "False"


PACKAGES = [rlpipe, rlpipe.losses, rlpipe.modules, rlpipe.pipelines, rlpipe.scripts]
FILES = sorted({file for package in PACKAGES for file in Path(package.__file__).parent.rglob("*.py")})


def test_all_of_rlpipe_is_searched():
    names = {file.name for file in FILES}
    assert {"checkpoint.py", "encoding.py", "read.py", "run.py", "groups.py", "resume.py", "evaluate.py"} <= names
    assert len(FILES) > 60


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_no_module_can_run_what_it_reads(file):
    assert findings(file.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import os, marshal as m",
        "from cloudpickle import loads",
        "import dill",
        "import shelve",
        "def f():\n    from cPickle import load",
        "from torchrl.checkpoint import load",
        "import torchrl.checkpoint",
        "from torchrl import checkpoint",
        "import yaml\nyaml.load(text, Loader=yaml.Loader)",
        "from yaml import load",
        "eval(text)",
        "exec(text)",
        "exec(source, names)",
        "list(map(exec, source, held))",
        "compile(text, '', 'exec')",
        "__import__(name)",
        "list(map(eval, texts))",
        "importlib.import_module(name)",
        "importlib.import_module(path.stem)",
        "importlib.import_module(f'rlpipe.{anything}')",
        "from importlib import import_module\nimport_module(name)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "torch.jit.load(path)",
        "numpy.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=flag)",
        "tensordict.load(path)",
        "TensorDict.load_memmap(path)",
        "pd.read_pickle(path)",
        "os.system(text)",
        "subprocess.run(text, shell=True)",
    ],
)
def test_the_search_finds(source):
    assert findings(source)


@pytest.mark.parametrize(
    "source",
    [
        "import re\nre.compile('a')",
        "torch.load(path, weights_only=True)",
        "importlib.import_module('torch')",
        "np.load(path)",
        "torch.compile(model)",
        "model.eval()",
        "json.loads(text)",
    ],
)
def test_the_search_leaves_alone(source):
    assert findings(source) == []
