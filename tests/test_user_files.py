"""Python files that users name: they are run as modules, once, and a digest tells whether their source changed."""

import importlib
import sys
from pathlib import Path

import pytest

from rlpipe.errors import ConfigError
from rlpipe.user_files import digest_of, load_file, load_trusted, split_file


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr("rlpipe.user_files._LOADED", {})
    yield
    # not all that are new, because a library is not imported twice
    for name in [each for each in sys.modules if each.startswith("mine_")]:
        del sys.modules[name]


def written(text, path="mine_file.py"):
    path = Path(path).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_file_is_told_from_other_text():
    assert split_file("a/b.py") == (Path("a/b.py"), "")
    assert split_file("a/b.py:C.build") == (Path("a/b.py"), "C.build")
    assert split_file("a.b:build") is None
    assert split_file("ppo") is None


def test_a_file_is_run_once_and_again_when_its_source_changes():
    path = written("import mine_part\nvalue = mine_part.value")
    written("value = 1", "mine_part.py")
    first = load_file(path, "option")
    assert first is load_file(path, "option") is sys.modules["mine_file"]
    assert first.value == 1
    # of what it imports too
    written("value = 22", "mine_part.py")
    assert load_file(path, "option").value == 22


def test_a_file_that_a_program_has_imported_is_not_run_again():
    path = written("")
    sys.path.insert(0, str(path.parent))
    imported = importlib.import_module("mine_file")
    assert load_file(path, "option") is imported


def test_files_of_one_name_in_two_folders_are_two():
    here, there = written("value = 1", "here/mine_file.py"), written("value = 2", "there/mine_file.py")
    assert [load_file(each, "option").value for each in (here, there, here)] == [1, 2, 1]
    # where other processes look for it
    assert sys.modules["mine_file"].value == 1


def test_a_file_that_fails_leaves_nothing_and_the_line_is_named():
    path = written("value = 1\n\nvalue = value + other")
    with pytest.raises(ConfigError, match=r"option: .*mine_file.py cannot be loaded: NameError: .* \(line 3\)"):
        load_file(path, "option")
    assert "mine_file" not in sys.modules
    before = load_file(written("", "other/mine_file.py"), "option")
    written("raise SystemExit('no')")
    with pytest.raises(ConfigError, match="it ended the program, SystemExit: no"):
        load_file(path, "option")
    assert sys.modules["mine_file"] is before


@pytest.mark.parametrize("name", ["random.py", "antigravity.py", "torch.py", "rlpipe.py", "two-words.py", "a.b.py"])
def test_the_name_of_another_module_is_refused(name):
    import torch

    assert torch
    with pytest.raises(ConfigError, match="rename the file"):
        load_file(written("", name), "option")


def test_the_digest_is_of_what_is_imported_from_the_folder():
    root = Path().absolute()
    path = written("import mine_part\nfrom mine_package import inner\nimport torch")
    first = digest_of(path, root)
    written("", "other.py")
    assert digest_of(path, root) == first
    found = [first]
    for file in ("mine_part.py", "mine_package/__init__.py", "mine_package/inner.py"):
        written("value = 1", file)
        found.append(digest_of(path, root))
    written("from . import deep", "mine_package/inner.py")
    found.append(digest_of(path, root))
    for text in ("", "from .. import mine_above"):
        written(text, "mine_package/deep.py")
        found.append(digest_of(path, root))
    written("", "mine_above.py")
    found.append(digest_of(path, root))
    assert len(set(found)) == len(found)


def test_a_source_that_is_no_python_has_a_digest():
    assert digest_of(written("def ("), Path().absolute())


def test_trusted_names_are_modules_and_files():
    written("", "mine_part.py")
    written("")
    sys.path.insert(0, str(Path().absolute()))
    load_trusted(["mine_part", "mine_file.py", ""])
    assert {"mine_part", "mine_file"} <= set(sys.modules)
    with pytest.raises(ConfigError, match="trust-module: there is no file nothing.py"):
        load_trusted(["nothing.py"])
