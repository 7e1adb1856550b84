"""`docs/compose.md`: its first file trains, and still trains after each of the changes that the page makes to it."""

import json
import sys
from pathlib import Path

import pytest
from page_files import changed, versions
from test_code_blocks import ROOT, blocks_of

from rlpipe.scripts.main import run

FILES = versions(blocks_of(ROOT / "docs" / "compose.md"))


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr("rlpipe.user_files._LOADED", {})
    yield
    sys.modules.pop("my_ppo", None)


@pytest.mark.parametrize(("line", "source"), [pytest.param(*each, id=f"line-{each[0]}") for each in FILES])
def test_the_file_trains(line, source, capsys):
    Path("my_ppo.py").write_text(source)
    assert run(["train", "my_ppo.py", "--total-frames", "1024", "--quiet", "--json"]) == 0, capsys.readouterr().err
    assert json.loads(capsys.readouterr().out)["updates"] == 32
    # imports that a change no longer needs are taken away
    names = source.split("@dataclass")[0].split("import ")[1:]
    for name in {each.strip(" ,\n") for text in names for each in text.split("\n")[0].split(",")}:
        assert source.count(name) > 1, f"the file after line {line} imports {name} and does not use it"


def test_the_page_has_the_steps():
    assert len(FILES) >= 10


def test_a_change_that_does_not_fit_is_found():
    with pytest.raises(AssertionError, match="these lines are there 0 times"):
        changed("a\nb\n", "-c\n+d")
    assert changed("a\nb\nc\n", " a\n-b\n+d\n@@\n c\n+e") == "a\nd\nc\ne\n"
