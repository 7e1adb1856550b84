"""Training processes that are killed, interrupted and resumed, by the command line."""

import fcntl
import functools
import json
import os
import pty
import random
import re
import shlex
import shutil
import signal
import struct
import subprocess
import termios
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from comparing import fingerprint
from forked import Python, session_of

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")

SIZES = "--num-envs 8 --rollout-steps 8 --minibatch-size 64 --buffer-size 4000 --updates 12 --hidden 64 64"
DQN = f"dqn {SIZES} --total-frames 12000 --checkpoint-every 1000 --eval-every 1500 --final-eval-episodes 10 --quiet"
# three batches and more to a line of metrics
A2C = (
    "a2c --num-envs 2 --backend async --rollout-steps 64 --total-frames 5000 --checkpoint-every 1000 --log-every 500 "
    "--eval-every 9000 --final-eval-episodes 2 --quiet"
)
# the last minibatch of an epoch is short, and so has an update of its own
COMPILED = (
    "ppo --compile --num-envs 4 --rollout-steps 12 --minibatch-size 32 --epochs 1 --hidden 8 --total-frames 9600 "
    "--checkpoint-every 480 --eval-every none --final-eval-episodes 2 --quiet"
)


started = []


@pytest.fixture(autouse=True)
def _none_outlives_its_test():
    yield
    while started:
        process = started.pop()
        process.kill()
        # what was read to its end is closed
        if not process.stdout.closed:
            process.communicate()


class Command:
    """`rlpipe ...` in `folder`, in a process group of its own."""

    def __init__(self, folder, *arguments, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL):
        self.run, (self.metrics, self.evaluations, self.resumes) = (
            folder / "run",
            (folder / "run" / f"{name}.jsonl" for name in ("metrics", "evaluations", "resumes")),
        )
        self.first, self._begins = 0, arguments[0] == "train" and "--resume" not in arguments
        self._resumed = len(lines(self.resumes))
        self.process = Python(
            "-m", "rlpipe", *arguments, cwd=folder, stdin=stdin, stdout=subprocess.PIPE, stderr=stderr, session=True
        )
        started.append(self.process)

    def learning(self):
        """Wait until it has learned from a batch."""
        # a run that goes on first cuts off what was written after its checkpoint
        self.wait_for(lambda: self._begins or len(lines(self.resumes)) > self._resumed)
        self.first = len(lines(self.metrics))
        self.wait_for(lambda: len(lines(self.metrics)) > self.first)
        return self

    def wait_for(self, condition, seconds=60.0):
        until = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < until
            time.sleep(0.0005)

    def end(self):
        out, err = self.process.communicate(timeout=120)
        return self.process.returncode, out, err

    def kill(self):
        self.process.kill()
        assert self.end()[0] == -signal.SIGKILL


def lines(path):
    """The whole lines of a journal."""
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


def is_writing(command):
    return any((command.run / "checkpoints").glob(".*.partial"))


def is_evaluating(command):
    """The batch after which it evaluates is on the disk, the evaluation is not."""
    written = lines(command.metrics)
    frames = json.loads(written[-1])["frames"] if written else 0
    return frames // 1500 > len(lines(command.evaluations))


def assert_none_left(command):
    until = time.monotonic() + 60.0
    while (left := session_of(command.process.pid)) and time.monotonic() < until:
        time.sleep(0.02)
    assert not left


def finish(folder, *arguments):
    """Let a command come to its end."""
    done = Command(folder, *arguments, "--json")
    code, out, err = done.end()
    assert (code, err) == (0, "")
    return json.loads(out)


@pytest.fixture(scope="module")
def never_killed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("never")
    finish(folder, "train", *DQN.split(), "--run-dir", "run")
    return fingerprint(folder / "run")


@pytest.mark.slow
def test_ten_kills_at_random_moments(tmp_path, never_killed):
    dice = random.Random(0)
    phases = ["learning"] * 4 + ["evaluating"] * 3 + ["writing"] * 3
    dice.shuffle(phases)
    fell = Counter()
    command = Command(tmp_path, "train", *DQN.split(), "--run-dir", "run")
    for number, phase in enumerate(phases):
        command.learning()
        if phase == "learning":
            time.sleep(dice.uniform(0.0, 0.3))
        else:
            command.wait_for(functools.partial({"writing": is_writing, "evaluating": is_evaluating}[phase], command))
            time.sleep(dice.uniform(0.0, 0.004))
        command.kill()
        where = "writing" if is_writing(command) else "evaluating" if is_evaluating(command) else "learning"
        fell[where] += 1
        if number < len(phases) - 1:
            command = Command(tmp_path, "resume", "run", "--quiet")
    assert finish(tmp_path, "train", "--resume", "run", "--quiet")["frames"] == 12032
    assert fingerprint(tmp_path / "run") == never_killed
    assert min(fell[phase] for phase in ("learning", "evaluating", "writing")) >= 1, fell
    assert len(lines(tmp_path / "run" / "resumes.jsonl")) == 10


def test_kills_of_a_run_with_processes_leave_none_of_them(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    # both at once, since they mostly wait for their processes to start
    reference = Command(whole, "train", *A2C.split(), "--run-dir", "run")
    command = Command(cut, "train", *A2C.split(), "--run-dir", "run")
    command.wait_for((cut / "run" / "checkpoints" / "frames-000000001024").exists)
    assert len(session_of(command.process.pid)) >= 3
    command.kill()
    assert_none_left(command)
    command = Command(cut, "resume", "run", "--quiet").learning()
    command.wait_for(lambda: len(lines(command.metrics)) > command.first + 1)
    command.kill()
    assert_none_left(command)
    finish(cut, "resume", "run", "--quiet")
    assert reference.end()[0] == 0
    assert fingerprint(cut / "run") == fingerprint(whole / "run")
    assert_none_left(reference)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="needs a C++ compiler")
def test_a_compiled_run_goes_on_as_if_it_had_not_been_killed(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    finish(whole, "train", *COMPILED.split(), "--run-dir", "run")
    kernels = set((tmp_path / "cache").rglob("*.so"))
    command = Command(cut, "train", *COMPILED.split(), "--run-dir", "run")
    command.wait_for((cut / "run" / "checkpoints" / "frames-000000001440").exists)
    command.kill()
    finish(cut, "resume", "run", "--quiet")
    assert fingerprint(cut / "run") == fingerprint(whole / "run")
    # what one process has compiled, the others load
    assert len(kernels) >= 2
    assert set((tmp_path / "cache").rglob("*.so")) == kernels


class Terminal:
    """A terminal of which everything that is written is kept."""

    def __init__(self):
        self.keyboard, self.screen = pty.openpty()
        # without columns, there is no bar
        fcntl.ioctl(self.screen, termios.TIOCSWINSZ, struct.pack("HHHH", 25, 100, 0, 0))
        self.before, self._pieces = termios.tcgetattr(self.screen), []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        while True:
            try:
                self._pieces.append(os.read(self.keyboard, 4096))
            except OSError:
                return

    def all(self):
        """Everything up to now."""
        mark = f"mark {random.random()}"
        os.write(self.screen, mark.encode())
        until = time.monotonic() + 10.0
        while mark not in (text := b"".join(self._pieces).decode(errors="replace")) and time.monotonic() < until:
            time.sleep(0.005)
        return re.sub(r"mark [\d.]+", "", text)

    def is_as_before(self):
        return termios.tcgetattr(self.screen) == self.before and "\x1b[?25l" not in self.all()


SIGNALS = [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]


def test_a_signal_is_followed_by_a_checkpoint_and_the_command_that_goes_on(tmp_path, never_killed):
    options, resumed = [*DQN.replace("--quiet", "").split(), "--run-dir", "run"], []
    for number, code, word in SIGNALS:
        # one after the other: nobody reads the terminal of one that waits
        terminal, folder = Terminal(), tmp_path / word
        folder.mkdir()
        command = Command(folder, "train", *options, stderr=terminal.screen, stdin=terminal.screen)
        command.wait_for(lambda command=command: len(lines(command.metrics)) > 60)
        command.process.send_signal(number)
        assert command.end()[:2] == (code, ""), terminal.all()
        said = (
            rf"[\r\n]rlpipe: {word} at frame (\d+); what was written is in run; continue with: (rlpipe resume run)\r\n$"
        )
        assert f"\nrlpipe: {word}: finishing the batch and writing a checkpoint" in terminal.all()
        frames, go_on = re.search(said, terminal.all()).groups()
        assert "return: training" in terminal.all()
        assert terminal.is_as_before()
        assert (command.run / "checkpoints" / f"frames-{int(frames):012d}").is_dir()
        resumed.append(Command(command.run.parent, *shlex.split(go_on)[1:], "--quiet"))
    for command in resumed:
        assert command.end()[0] == 0
        assert fingerprint(command.run) == never_killed


def test_a_second_signal_stops_at_once(tmp_path):
    # an evaluation that takes a minute
    options = DQN.replace("--eval-every 1500", "--eval-every 1500 --eval-episodes 1000000").split()
    commands = []
    for _, _, word in SIGNALS:
        (tmp_path / word).mkdir()
        commands.append(Command(tmp_path / word, "train", *options, "--run-dir", "run"))
    for command, (second, code, _) in zip(commands, SIGNALS, strict=True):
        command.wait_for(functools.partial(is_evaluating, command))
        time.sleep(0.2)
        command.process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert command.process.poll() is None
        sent = time.monotonic()
        command.process.send_signal(second)
        assert command.end() == (
            code,
            "",
            "\nrlpipe: interrupted: finishing the batch and writing a checkpoint; a second signal stops at once\n"
            "\nrlpipe: stopped at once\n",
        )
        assert time.monotonic() - sent < 5.0
        assert [path.name for path in (command.run / "checkpoints").iterdir()] == ["frames-000000001024"]
