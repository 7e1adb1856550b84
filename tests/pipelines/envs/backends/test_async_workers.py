"""Environments in processes: a failure is one line, and no process is left behind."""

import contextlib
import gc
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from forked import Python
from fragile import DIE, GO_ON, LEAVE, RAISE, RAISE_LOCAL, RAISE_ODD, SLEEP

from rlpipe.errors import TrainingError
from rlpipe.pipelines.envs import EnvConfig, make_env

needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")


@pytest.fixture(autouse=True)
def _no_hang():
    def give_up(*_):
        raise TimeoutError("this test hangs")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(300)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def env(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = make_env(EnvConfig("tests/Fragile-v0", 2, "async"), seed=0)
    made.reset()
    yield made.base_env
    made.base_env.envs.close()


def test_workers_that_fail_at_the_end_with_many_words_are_heard_and_gone(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    env = make_env(EnvConfig("tests/Talkative-v0", 2, "async"), seed=0)
    env.reset()
    workers = list(env.base_env.envs.processes)
    # what this process made to look at has failed as well
    caplog.clear()
    env.close()
    assert not any(worker.is_alive() for worker in workers)
    assert [message[:80].rstrip("x") for message in caplog.messages] == [
        "rlpipe: tests/Talkative-v0 could not be closed: RuntimeError: "
    ]


@pytest.fixture
def python(tmp_path):
    """Starts Python in `tmp_path`, in a process group of its own, as a shell would."""
    here, started = str(Path(__file__).parents[3] / "helpers"), []

    def start(*arguments, command=(sys.executable,), forked=False):
        options = {
            "cwd": tmp_path,
            "env": {**os.environ, "PYTHONPATH": os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])},
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
        }
        if forked:
            process = Python(*arguments, **options, session=True)
        else:
            process = subprocess.Popen([*command, *arguments], **options, text=True, start_new_session=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def pids(env):
    return [process.pid for process in env.envs.processes]


def advance(env, *actions):
    return env.advance(np.array(actions))


def assert_gone(workers):
    assert len(workers) == 2
    for pid in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def assert_closes(env, capfd):
    """Close, and see that no process is left and nothing was printed."""
    workers = pids(env)
    env.envs.close()
    assert_gone(workers)
    assert capfd.readouterr() == ("", "")


def test_workers_step_and_leave(env, capfd):
    processes = env.envs.processes
    assert len({os.getpid(), *pids(env)}) == 3
    assert advance(env, GO_ON, GO_ON)["reward"].tolist() == [1.0, 1.0]
    assert_closes(env, capfd)
    assert [process.exitcode for process in processes] == [0, 0]


def test_one_that_is_collected_after_its_pipes_leaves_their_numbers_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    envs = make_env(EnvConfig("tests/Fragile-v0", 2, "async"), seed=0).base_env.envs
    workers, pipes = list(envs.processes), list(envs.parent_pipes)
    numbers = [pipe.fileno() for pipe in pipes]
    for pipe in pipes:
        # what the garbage collector calls; the pipe still takes the number for its own
        pipe.__del__()
    with contextlib.ExitStack() as opened:
        files = [opened.enter_context((tmp_path / str(index)).open("w")) for index in range(16)]
        assert set(numbers) <= {file.fileno() for file in files}
        del envs
        gc.collect()
        for file in files:
            os.fstat(file.fileno())
        assert not any(worker.is_alive() for worker in workers)
        for pipe in pipes:
            pipe._handle = None


@pytest.mark.parametrize("reset", [True, False])
def test_closing_an_environment_stops_its_workers(reset):
    env = make_env(EnvConfig("tests/Fragile-v0", 2, "async"), seed=0)
    if reset:
        env.reset()
    workers = pids(env.base_env)
    try:
        env.close()
        assert_gone(workers)
    finally:
        env.base_env.envs.close()


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (
            (GO_ON, RAISE),
            "worker 1 of 2 failed in step 2 of .*; its last message: RuntimeError: the pole broke\nin two",
        ),
        ((RAISE_LOCAL, GO_ON), "worker 0 of 2 failed in step 2 of .*; its last message: LocalError: only here"),
        ((RAISE_ODD, RAISE_ODD), "worker [01] of 2 failed in step 2 of .*: OddError: the cart broke \\(3\\)"),
    ],
)
def test_an_environment_that_raises_is_named_with_its_message(env, capfd, actions, message):
    advance(env, GO_ON, GO_ON)
    with pytest.raises(TrainingError, match=f"^{message}$"):
        advance(env, *actions)
    assert_closes(env, capfd)


@pytest.mark.parametrize(("action", "code"), [(DIE, -9), (LEAVE, 7)])
def test_a_worker_that_dies_in_a_step_is_named(env, capfd, action, code):
    with pytest.raises(TrainingError, match=rf"^worker 1 of 2 died \(exit code {code}\) in step 1 of its environment"):
        advance(env, GO_ON, action)
    assert_closes(env, capfd)


@pytest.mark.parametrize("steps", [0, 2])
def test_a_worker_that_is_killed_from_outside_is_named(env, capfd, steps):
    for _ in range(steps):
        advance(env, GO_ON, GO_ON)
    os.kill(pids(env)[0], signal.SIGKILL)
    env.envs.processes[0].join()
    when = ("in step 3 of" if steps else "before the first step of") + " its environment tests/Fragile-v0"
    with pytest.raises(TrainingError, match=rf"^worker 0 of 2 died \(exit code -9\) {when}, without a last message"):
        advance(env, GO_ON, GO_ON) if steps else env.restart()
    assert_closes(env, capfd)


def test_closing_does_not_wait_for_a_step(env, capfd):
    env.envs.step_async(np.array([SLEEP, GO_ON]))
    assert wait_until(lambda: list(Path().glob("sleeping-*")))
    started = time.monotonic()
    assert_closes(env, capfd)
    assert time.monotonic() - started < 20.0


class InterruptedPipe:
    """A pipe whose first message is sent, and then Ctrl-C comes."""

    def __init__(self, pipe):
        self.pipe, self.sent = pipe, []

    def send(self, message):
        self.pipe.send(message)
        self.sent.append(message[0])
        if len(self.sent) == 1:
            raise KeyboardInterrupt

    def __getattr__(self, name):
        return getattr(self.pipe, name)


@pytest.mark.parametrize("what", ["step", "reset"])
def test_closing_after_ctrl_c_between_the_messages_of_a_step_asks_nothing_of_busy_workers(env, capfd, what):
    processes = env.envs.processes
    env.envs.parent_pipes[0] = pipe = InterruptedPipe(env.envs.parent_pipes[0])
    with pytest.raises(KeyboardInterrupt):
        env.envs.step(np.array([SLEEP, GO_ON])) if what == "step" else env.envs.reset()
    assert_closes(env, capfd)
    assert pipe.sent == [what]
    assert [process.exitcode for process in processes] == [-signal.SIGKILL] * 2


@needs_proc
def test_an_environment_that_cannot_be_made_in_its_worker(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = set(children(os.getpid()))
    # while the error is kept, nothing is collected that it refers to
    with pytest.raises(TrainingError) as kept:
        make_env(EnvConfig("tests/Unmakeable-v0", 2, "async"))
    assert kept.match("^worker [01] of 2 failed before the first step .* MemoryError: no room for a cart$")
    assert capfd.readouterr() == ("", "")
    left = [Path(f"/proc/{pid}/cmdline").read_text() for pid in set(children(os.getpid())) - before]
    assert all("resource_tracker" in command for command in left)


def stat_of(pid):
    """State and parent of a process, which need not be a child of this one."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return "X", None
    return fields[0], int(fields[1])


def alive(pid):
    return stat_of(pid)[0] not in "ZX"


def children(pid):
    numbers = [int(folder.name) for folder in Path("/proc").glob("[0-9]*")]
    return [number for number in numbers if stat_of(number)[1] == pid]


def wait_until(condition, seconds=60.0):
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.02)
    return condition()


def none_left(workers):
    return len(workers) >= 2 and wait_until(lambda: not any(alive(pid) for pid in workers))


MAKE = """
import signal, sys
import fragile, numpy
from rlpipe.pipelines.envs.backends.async_workers import WorkerVectorEnv
if __name__ == "__main__":
    # which whoever started the tests may ignore, as a shell does for what it runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        env = WorkerVectorEnv([fragile.Fragile] * 2, context=sys.argv[1])
        env.reset()
        env.step(numpy.full(2, int(sys.argv[2])))
        env.close()
        print("fine")
    except KeyboardInterrupt:
        sys.exit(130)
"""


@needs_proc
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_in_the_middle_of_a_step_die_with_a_parent_that_is_killed(python, tmp_path, context):
    parent = python("-c", MAKE, context, str(SLEEP))
    assert wait_until(lambda: len(list(tmp_path.glob("sleeping-*"))) == 2)
    workers = [int(path.name.removeprefix("sleeping-")) for path in tmp_path.glob("sleeping-*")]
    assert set(workers) <= set(children(parent.pid))
    parent.kill()
    assert none_left(workers)


@needs_proc
def test_ctrl_c_while_workers_start_is_the_parents_alone(python):
    parent = python("-c", MAKE, "spawn", str(SLEEP))
    # the resource tracker is one of them
    assert wait_until(lambda: len(children(parent.pid)) == 3)
    started = children(parent.pid)
    os.killpg(parent.pid, signal.SIGINT)
    assert parent.communicate(timeout=300) == ("", "")
    assert parent.returncode == 130
    assert none_left(started)


@pytest.mark.skipif(
    shutil.which("unshare") is None or subprocess.run(["unshare", "-fp", "true"], check=False).returncode != 0,
    reason="may not make a PID namespace",
)
def test_a_parent_that_is_process_1_has_workers(python):
    parent = python("-c", MAKE, "fork", str(GO_ON), command=("unshare", "-fp", sys.executable))
    assert parent.communicate(timeout=300) == ("fine\n", "")


def train(python, *options):
    code = "import fragile, sys; from rlpipe.scripts.main import run; sys.exit(run(sys.argv[1:]))"
    return python("-c", code, "train", "a2c/eight-workers", "--num-envs", "2", "--quiet", *options, forked=True)


@needs_proc
def test_ctrl_c_ends_training_with_the_way_on_and_exit_code_130(python, tmp_path):
    parent = train(python, "--run-dir", "here")
    metrics = tmp_path / "here" / "metrics.jsonl"
    assert wait_until(lambda: metrics.exists() and metrics.stat().st_size > 0)
    workers = children(parent.pid)
    os.killpg(parent.pid, signal.SIGINT)
    out, err = parent.communicate(timeout=300)
    assert out == ""
    assert re.fullmatch(
        "\nrlpipe: interrupted: finishing the batch and writing a checkpoint; a second signal stops at once\n"
        r"rlpipe: interrupted at frame \d+; what was written is in here; continue with: rlpipe resume here\n",
        err,
    )
    assert parent.returncode == 130
    assert none_left(workers)


@needs_proc
def test_training_whose_environment_raises_ends_with_one_line_and_exit_code_1(python, tmp_path):
    parent = train(python, "--env-id", "tests/Broken-v0")
    out, err = parent.communicate(timeout=300)
    assert (parent.returncode, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("rlpipe: error: worker ")
    last = "its environment tests/Broken-v0; its last message: RuntimeError: the pole broke in two"
    assert err.endswith(f" failed in step 1 of {last}; there is no checkpoint yet\n")
    assert none_left([int(path.name.removeprefix("worker-")) for path in tmp_path.glob("worker-*")])
