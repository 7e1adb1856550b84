"""What is said before PyTorch is imported."""

import gc
import io
import json
import os
import subprocess
import sys

import pytest

from rlpipe.lazy import quick_imports
from rlpipe.scripts.display.starting import meanwhile, starting
from rlpipe.scripts.main import run


class Terminal(io.StringIO):
    def isatty(self):
        return True


def terminal_of(monkeypatch):
    """Call it in a test: pytest sets stderr after fixtures."""
    monkeypatch.setattr(sys, "stderr", Terminal())
    return sys.stderr


@pytest.fixture
def _without_torch(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch")


@pytest.mark.usefixtures("_without_torch")
def test_a_terminal_shows_it_until_the_import_is_done(monkeypatch):
    terminal = terminal_of(monkeypatch)
    with starting("ppo"):
        assert terminal.getvalue() == "ppo: loading PyTorch"
    assert terminal.getvalue() == "ppo: loading PyTorch\r\x1b[K"


def test_it_stays_on_one_row_which_can_be_erased(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    terminal = terminal_of(monkeypatch)
    with meanwhile("runs/of a long\nname/that goes on"):
        assert terminal.getvalue() == "runs/of a long name"


def test_a_process_without_stderr_goes_on(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    with meanwhile("reading", in_files=True):
        pass
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    sys.stderr.close()
    monkeypatch.setattr("rlpipe.scripts.display.starting.can_draw", lambda: False)
    with meanwhile("reading", in_files=True):
        pass


def test_an_error_erases_it_too(monkeypatch):
    terminal = terminal_of(monkeypatch)
    with pytest.raises(ValueError, match="wrong"), meanwhile("reading"):
        raise ValueError("wrong")
    assert terminal.getvalue() == "reading\r\x1b[K"


@pytest.mark.usefixtures("_without_torch")
def test_a_file_gets_a_line_of_training_only(capsys):
    with starting("ppo", in_files=True):
        pass
    assert capsys.readouterr().err == "ppo: loading PyTorch\n"
    with starting("run"), meanwhile("reading"):
        pass
    assert capsys.readouterr().err == ""


def test_nothing_is_said_where_nobody_waits_or_asked(monkeypatch):
    terminal = terminal_of(monkeypatch)
    with starting("ppo"):
        pass
    monkeypatch.delitem(sys.modules, "torch")
    with starting("ppo", quiet=True), meanwhile("reading", quiet=True):
        pass
    assert terminal.getvalue() == ""


def test_a_full_disk_does_not_stop_it(monkeypatch):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stderr", Full())
    with meanwhile("reading", in_files=True):
        pass


def test_the_first_line_of_a_run_is_said_before_the_import(tmp_path):
    # the import of PyTorch fails, so what is on stderr was said before it
    (tmp_path / "torch.py").write_text("raise RuntimeError('imported')")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from rlpipe.scripts.main import run; run(sys.argv[1:])"
    words = ["train", "ppo", "--run-dir", str(tmp_path / "run")]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.stderr.startswith("ppo on CartPole-v1, seed 0: loading PyTorch\nTraceback")
    assert done.stderr.endswith("RuntimeError: imported\n")


@pytest.mark.parametrize("command", ["evaluate", "export", "resume"])
def test_a_command_that_reads_a_run_says_so_until_the_import_is_done(tmp_path, capsys, command):
    (tmp_path / "torch.py").write_text("import sys; sys.stderr.write(':IMPORTED'); raise RuntimeError")
    folder = tmp_path / "run"
    (folder / "checkpoints" / "frames-000000000020").mkdir(parents=True)
    assert run(["train", "ppo", "--print-config"]) == 0
    described = {"recipe": "ppo", "algorithm": "ppo", "config": json.loads(capsys.readouterr().out)}
    described["config"].pop("recipe")
    (folder / "config.json").write_text(json.dumps(described))
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from rlpipe.scripts.main import run; run(sys.argv[1:])"
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "wb") as terminal:
        words = [sys.executable, "-c", code, command, folder.name]
        subprocess.run(words, stderr=terminal, env={**os.environ, "TERM": "xterm"}, cwd=tmp_path, check=False)
    with os.fdopen(ours, "rb") as screen:
        assert b": loading PyTorch:IMPORTED\r\x1b[K" in screen.read1(65536)


def test_collections_are_paused_and_go_on():
    assert gc.isenabled()
    with quick_imports():
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.disable()
    try:
        with quick_imports():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.parametrize("of_a_command", [True, False])
@pytest.mark.usefixtures("_without_torch")
def test_only_a_command_hides_its_objects_from_later_collections(of_a_command, monkeypatch):
    frozen = []
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(True))
    with quick_imports(of_a_command=of_a_command):
        pass
    assert bool(frozen) == of_a_command
