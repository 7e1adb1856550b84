"""Disks that fill up, and folders that vanish or cannot be written: one line, and a checkpoint that is still good."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import forked
import pytest
from comparing import fingerprint

from rlpipe.pipelines.checkpoints.names import newest_checkpoint
from rlpipe.pipelines.runs.journal import Journal
from rlpipe.scripts.main import run

SIZES = ["--num-envs", "2", "--rollout-steps", "8", "--final-eval-episodes", "2", "--eval-episodes", "1", "--quiet"]
EVERY = ["--total-frames", "128", "--checkpoint-every", "16", "--eval-every", "16"]
TRAIN = ["train", "a2c", *SIZES, *EVERY, "--run-dir"]

needs_limits = pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="has no limit on the size of files")


def _may_mount():
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"]
    return (
        shutil.which("unshare") is not None
        and subprocess.run(command, check=False, capture_output=True).returncode == 0
    )


needs_mounts = pytest.mark.skipif(not _may_mount(), reason="may not mount")


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """What the run comes to if nothing happens to it."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert run([*TRAIN, str(folder)]) == 0
    return fingerprint(folder)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def one_line(capsys, *words):
    """The error that was printed; it has the words."""
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1, printed.err
    assert printed.err.startswith("rlpipe: error: ")
    assert all(word in printed.err for word in words), printed.err
    return printed.err


def goes_on(expected):
    """The run in `run` goes on from its newest checkpoint, and comes to the same end."""
    if newest_checkpoint(Path("run")) is not None:
        assert run(["evaluate", "run", "--episodes", "1"]) == 0
    assert run(["resume", "run", "--quiet"]) == 0
    assert fingerprint(Path("run")) == expected


def failing_once(monkeypatch, target, when):
    """Let a function fail as on a full disk from its `when`-th call on, until `monkeypatch.undo`."""
    module, _, name = target.rpartition(".")
    found = pytest.importorskip(module)
    original, calls = getattr(found, name), iter(range(10**6))

    def fail(*arguments, **keywords):
        if next(calls) >= when:
            raise OSError(28, "No space left on device")
        return original(*arguments, **keywords)

    monkeypatch.setattr(found, name, fail)


@pytest.mark.parametrize("when", [0, 3, 11])
@pytest.mark.parametrize("target", ["save_file", "sync", "write_synced"])
def test_a_checkpoint_that_cannot_be_written(here, monkeypatch, capsys, expected, target, when):
    failing_once(monkeypatch, f"rlpipe.pipelines.checkpoints.checkpoint.{target}", when)
    code = run([*TRAIN, "run"])
    monkeypatch.undo()
    monkeypatch.chdir(here)
    # few enough calls, and the run is over before
    assert code == (1 if when < 11 or target != "write_synced" else 0)
    if code:
        last = newest_checkpoint(Path("run"))
        kept = f"the last good checkpoint is {last}" if last else "there is no checkpoint yet"
        one_line(capsys, "cannot be written: No space left on device", kept)
        assert not list(Path("run/checkpoints").glob(".*"))
        goes_on(expected)


LIMITED = """
import resource, signal, sys
from rlpipe.scripts import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
import torch, torchrl, rlpipe.pipelines.algorithms.a2c, rlpipe.pipelines.session
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
sys.exit(main.run(sys.argv[2:]))
"""


def python(*command, before):
    return subprocess.run(
        [*before, sys.executable, "-c", *command], check=False, capture_output=True, text=True, timeout=300
    )


def told(process, *words):
    """A process that ended with exit code 1 and one line, which has the words."""
    assert (process.returncode, process.stdout) == (1, ""), process.stderr
    assert process.stderr.count("\n") == 1, process.stderr
    assert process.stderr.startswith("rlpipe: error: ")
    assert all(word in process.stderr for word in words), process.stderr


@needs_limits
@pytest.mark.parametrize(("limit", "what"), [(3_000, "run/"), (20_000, "run/checkpoints/")])
def test_a_limit_on_the_size_of_files(here, expected, limit, what):
    told(forked.run("-c", LIMITED, str(limit), *TRAIN, "run"), what, "cannot be written: ", "checkpoint")
    if Path("run/metrics.jsonl").exists():
        goes_on(expected)


@needs_mounts
@pytest.mark.parametrize("kib", [250, 500])
def test_a_disk_that_fills_up(here, expected, kib):
    Path("disk").mkdir()
    script = f'mount -t tmpfs -o size={kib}k none disk && cd disk && "$@"; code=$?; cp -r run ../run; exit $code'
    before = ["unshare", "-rm", "sh", "-c", script, "sh"]
    code = "import sys; from rlpipe.scripts.main import run; sys.exit(run(sys.argv[1:]))"
    told(python(code, *TRAIN, "run", "--log-every", "1", before=before), "No space left on device")
    goes_on(expected)


@pytest.fixture
def limit():
    """Limits the size of files that this process writes; Python ignores the signal."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@needs_limits
@pytest.mark.parametrize("file", ["metrics.jsonl", "evaluations.jsonl"])
def test_a_metric_that_cannot_be_written(here, monkeypatch, capsys, expected, limit, file):
    monkeypatch.setattr("rlpipe.pipelines.runs.loggers.tensorboard.TensorBoardLog.log", lambda *_: None)
    if file != "metrics.jsonl":
        append = Journal.append
        monkeypatch.setattr(Journal, "append", lambda self, line: self.path.name == file and append(self, line))

    def fill():
        grown = {path: path.stat().st_size for path in Path("run").rglob("*") if path.is_file()}
        # what else there is to write is smaller than that, or is written in one piece to a new file
        limit(1 + max(size for path, size in grown.items() if file in str(path)))

    import rlpipe.pipelines.runs.run as module

    original = module.save_checkpoint

    def save(path, state, metadata):
        # checkpoints stay possible: the limit is lifted for them
        limit(1 << 30)
        original(path, state, metadata)
        if "032" in path.name:
            save.full = True
        if getattr(save, "full", False):
            fill()

    monkeypatch.setattr(module, "save_checkpoint", save)
    code = run([*TRAIN, "run"])
    limit(1 << 30)
    monkeypatch.undo()
    monkeypatch.chdir(here)
    assert code == 1
    one_line(
        capsys, f"run/{file} cannot be written: File too large; the last good checkpoint is run/checkpoints/frames-"
    )
    if file == "metrics.jsonl":
        goes_on(expected)


def test_no_process_is_left(here, monkeypatch, capsys):
    before = set(multiprocessing.active_children())
    failing_once(monkeypatch, "rlpipe.pipelines.checkpoints.checkpoint.save_file", 3)
    assert run([*TRAIN, "run", "--backend", "async"]) == 1
    one_line(capsys, "No space left on device")
    assert set(multiprocessing.active_children()) == before


def at_second_checkpoint(monkeypatch, act):
    """Do something to the run folder once its second checkpoint is there."""
    import rlpipe.pipelines.runs.run as module

    original, calls = module.save_checkpoint, []

    def save(path, state, metadata):
        if len(calls) == 2:
            act()
        calls.append(path)
        original(path, state, metadata)

    monkeypatch.setattr(module, "save_checkpoint", save)


@pytest.mark.parametrize("how", ["renamed", "removed"])
def test_a_run_folder_that_vanishes(here, monkeypatch, capsys, expected, how):
    act = (lambda: os.rename("run", "moved")) if how == "renamed" else (lambda: shutil.rmtree("run"))
    at_second_checkpoint(monkeypatch, act)
    assert run([*TRAIN, "run"]) == 1
    monkeypatch.undo()
    monkeypatch.chdir(here)
    one_line(capsys, "cannot be written: No such file or directory; the run folder no longer exists")
    assert not Path("run").exists()
    if how == "renamed":
        os.rename("moved", "run")
        goes_on(expected)


@needs_mounts
def test_a_run_folder_that_becomes_read_only(here, expected):
    Path("run").mkdir()
    code = """
import os, subprocess, sys
import rlpipe.pipelines.runs.run as module
original, calls = module.save_checkpoint, []
def save(path, state, metadata):
    if len(calls) == 2:
        subprocess.run(["mount", "--bind", "run", "run"], check=True)
        subprocess.run(["mount", "-o", "remount,ro,bind", "run"], check=True)
    calls.append(path)
    original(path, state, metadata)
module.save_checkpoint = save
from rlpipe.scripts.main import run
sys.exit(run(sys.argv[1:]))
"""
    Path("run").rmdir()
    workers = [*TRAIN, "run", "--backend", "async"]
    told(python(code, *workers, before=["unshare", "-rmfp", "--kill-child"]), "Read-only file system", "the last good")
    assert newest_checkpoint(Path("run")).name == "frames-000000000032"
    assert run(["resume", "run", "--quiet"]) == 0


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="no folder that nobody may write to")
def test_a_run_folder_where_none_can_be(here, capsys):
    assert run([*TRAIN, "/proc/run"]) == 2
    one_line(capsys, "run-dir /proc/run cannot be made")
    Path("file").write_text("mine")
    assert run([*TRAIN, "file/run"]) in (1, 2)
    one_line(capsys, "file")


def test_a_run_that_is_being_written(here, monkeypatch, capsys, expected):
    codes = []
    at_second_checkpoint(monkeypatch, lambda: codes.append(run(["resume", "run", "--quiet"])))
    assert run([*TRAIN, "run"]) == 0
    assert codes == [2]
    one_line(capsys, "run run is being written by another process")
    assert fingerprint(Path("run")) == expected
