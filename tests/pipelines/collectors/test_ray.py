"""Collectors on Ray: the same numbers as in one process, resumed to the bit; replaced when lost, or told of."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
from comparing import fingerprint
from kinds import acts, masked, reads
from resuming import go, killed, make_config

from rlpipe.errors import ConfigError, TrainingError
from rlpipe.pipelines.algorithms import dqn, ppo
from rlpipe.pipelines.algorithms.recipes import builder
from rlpipe.pipelines.checkpoints.names import newest_checkpoint
from rlpipe.pipelines.training.loop import train

ray = pytest.importorskip("ray")

from rlpipe.pipelines.collectors import ray_collector, ray_connection, ray_placement  # noqa: E402
from rlpipe.pipelines.collectors.ray_worker import why_lost  # noqa: E402

pytestmark = pytest.mark.slow

TOKEN = "0123456789abcdef" * 4
TWO = {"collector": "ray", "num_collectors": 2}
SMALL = {"num_envs": 4, "rollout_steps": 8, "minibatch_size": 8, "total_frames": 64, "hidden": (8,), "eval_every": None}


@pytest.fixture(scope="module", autouse=True)
def _one_ray():
    with pytest.MonkeyPatch.context() as patch:
        # where `fragile` and `kinds` are
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2] / "helpers"), prepend=os.pathsep)
        connection = ray_connection.RayConnection(None, 2)
    yield
    connection.close()
    assert not ray.is_initialized()


@pytest.fixture(autouse=True)
def _no_actor_is_left():
    yield
    assert ray.cluster_resources()["CPU"] == 2
    until = time.monotonic() + 20
    while ray.available_resources().get("CPU") != 2:
        assert time.monotonic() < until
        time.sleep(0.1)


def pid_of(pipeline, index):
    return ray.get(pipeline.collector.remote_collectors[index].__ray_call__.remote(lambda _: os.getpid()))


def at_batch(number, call):
    """Makes `go` do something with the pipeline before it learns from a batch."""

    def during(pipeline):
        learn, count = pipeline.learn, iter(range(1000))

        def called(batch):
            if next(count) == number:
                call(pipeline)
            return learn(batch)

        pipeline.learn = called

    return during


@pytest.mark.parametrize(("algorithm", "kind"), [("ppo", "normalized"), ("dqn", "acrobot")], ids=lambda each: each)
def test_one_collector_gives_the_same_run_as_none(algorithm, kind, tmp_path):
    config = make_config(algorithm, kind, total_frames=2000)
    go(tmp_path / "local", algorithm, config)
    go(tmp_path / "ray", algorithm, replace(config, collector="ray"))
    local, on_ray = fingerprint(tmp_path / "local"), fingerprint(tmp_path / "ray")
    # which holds a list of them there, and the moving mean of the time they wait
    for name in ("environments", "line"):
        local.pop(name), on_ray.pop(name)
    assert on_ray == local


@pytest.mark.parametrize("env_id", [reads("nested", "position"), acts("nested"), masked("each")])
def test_nested_spaces_are_collected_as_in_one_process(env_id, tmp_path):
    sizes = {"num_envs": 2, "rollout_steps": 8, "minibatch_size": 8, "total_frames": 64, "hidden": (8,)}
    config = ppo.Config(env_id=f"kinds:{env_id}", eval_every=None, log_info=("steps",), **sizes)
    go(tmp_path / "local", "ppo", config)
    go(tmp_path / "ray", "ppo", replace(config, collector="ray"))
    local, on_ray = fingerprint(tmp_path / "local"), fingerprint(tmp_path / "ray")
    for name in ("environments", "line"):
        local.pop(name), on_ray.pop(name)
    assert on_ray == local


def test_numbers_of_infos_are_those_of_all_collectors():
    config = ppo.Config(env_id="goals:tests/Runner-v0", log_info=("steps:last",), **TWO, **SMALL)
    pipeline = builder("ppo")(config)
    try:
        for batch in pipeline.collector:
            lengths = batch["next", "observation"][batch["next", "done"].squeeze(-1)]
            assert pipeline.collector.infos.sums == {"info/steps_last": (lengths.sum(), len(lengths))}
            assert len(pipeline.collector.infos.successes) == len(lengths) > 5
    finally:
        pipeline.close()


def test_two_collectors_go_on_to_the_bit(tmp_path):
    config = make_config("ppo", "cartpole", total_frames=2000, **TWO)
    go(tmp_path / "whole", "ppo", config)
    killed(tmp_path / "cut", "ppo", config, "learn", 6)
    go(tmp_path / "cut", "ppo", config)
    assert fingerprint(tmp_path / "cut") == fingerprint(tmp_path / "whole")


def test_two_asynchronous_collectors_take_turns(tmp_path):
    config = make_config("dqn", "cartpole", asynchronous=True, total_frames=2400, **TWO)
    stale, workers = [], set()

    def watch(pipeline):
        learn = pipeline.learn

        def watched(batch):
            workers.update(batch["collector", "worker"].unique().tolist())
            assert batch.shape == (4, 2 * config.rollout_steps)
            stale.append(pipeline.collector.metrics(1.0)["staleness"])
            return learn(batch)

        pipeline.learn = watched

    killed(tmp_path / "run", "dqn", config, "evaluate", 3, during=watch)
    assert workers == {0, 1}
    assert stale[0] == 0
    assert max(stale) >= 1
    assert go(tmp_path / "run", "dqn", config).frames == 2432


def test_a_collector_that_is_lost_is_replaced(tmp_path, caplog):
    config = make_config("a2c", "acrobot", total_frames=2000, **TWO)
    pids = []

    def kill(index):
        def now(pipeline):
            pids.append(pid_of(pipeline, index))
            os.kill(pids[-1], signal.SIGKILL)

        return now

    first, second = at_batch(3, kill(1)), at_batch(9, kill(0))

    def both(pipeline):
        first(pipeline), second(pipeline)
        pids.extend(pid_of(pipeline, index) for index in (0, 1))

    result = go(tmp_path / "run", "a2c", config, during=both)
    assert result.frames == 2048
    assert pids[2:] == [pids[1], pids[0]]
    told = [record.getMessage() for record in caplog.records if record.name == "rlpipe"]
    begin = (
        "rlpipe: collector {} of 2 was lost (its process died); starting another one in its place, with fresh episodes"
    )
    assert told == [begin.format(1), begin.format(0)]


def test_an_asynchronous_collector_that_is_lost_is_replaced(caplog):
    pipeline = dqn.build(make_config("dqn", "cartpole", asynchronous=True, total_frames=2400, **TWO))
    at_batch(3, lambda pipeline: ray.kill(pipeline.collector.remote_collectors[1]))(pipeline)
    try:
        assert train(pipeline).frames == 2432
    finally:
        pipeline.close()
    assert [record.levelname for record in caplog.records if record.name == "rlpipe"] == ["WARNING"]


def test_a_collector_that_cannot_be_replaced_ends_the_run(tmp_path, monkeypatch):
    config = make_config("ppo", "cartpole", **TWO)

    def kill(pipeline):
        monkeypatch.setattr(ray_collector, "START_SECONDS", 0.01)
        os.kill(pid_of(pipeline, 1), signal.SIGKILL)

    with pytest.raises(TrainingError) as error:
        go(tmp_path / "run", "ppo", config, during=at_batch(5, kill))
    kept = newest_checkpoint(tmp_path / "run")
    assert kept.name == "frames-000000001024"
    assert str(error.value) == (
        "collector 1 of 2 was lost (its process died), and Ray did not start another one within 0.01 s; "
        f"the last good checkpoint is {kept}"
    )


def test_collectors_that_are_lost_again_and_again_end_the_run():
    pipeline = ppo.build(make_config("ppo", "cartpole", collector="ray"))
    pipeline.collector._received = lambda _: ray.kill(pipeline.collector.remote_collectors[0]) or 1 / 0
    pipeline.collector.update_policy_weights_ = lambda: ray.kill(pipeline.collector.remote_collectors[0])
    try:
        with pytest.raises(TrainingError, match=r"^collectors were lost 4 times in a row: "):
            next(iter(pipeline.collector))
    finally:
        pipeline.close()


def test_an_environment_that_fails_in_a_collector_speaks_for_itself():
    pipeline = builder("dqn")(dqn.Config(env_id="fragile:tests/Broken-v0", total_frames=1000, num_envs=4, **TWO))
    try:
        with pytest.raises(TrainingError, match=r"^collector \d of 2 failed: .*the pole broke"):
            train(pipeline)
    finally:
        pipeline.close()
        for left in Path().glob("worker-*"):
            left.unlink()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ray_cpus": 2.0}, "num_collectors is 2, each of which asks Ray for 2 CPU; it has 2 CPU in all"),
        ({"ray_gpus": 0.5, "ray_cpus": 0.0}, "each of which asks Ray for 0.5 GPU; it has 0 GPU in all"),
        ({"ray_memory": 99_999_999}, "asks Ray for 99,999,999 MiB of memory; it has"),
        ({"ray_address": "localhost:1"}, "ray_address is localhost:1, and this process is connected to Ray at"),
    ],
)
def test_what_ray_has_not_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        ppo.build(ppo.Config(**TWO, **options))


def test_no_room_beside_others_is_said(monkeypatch):
    pipeline = ppo.build(ppo.Config(**TWO))
    monkeypatch.setattr(ray_placement, "START_SECONDS", 0.5)
    try:
        with pytest.raises(ConfigError, match=r"Ray found no room for 2 collectors within 0.5 s: others use it"):
            ppo.build(ppo.Config(**TWO))
    finally:
        pipeline.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({**TWO, "ray_address": "head"}, "ray_address is 'head'; expected HOST:PORT"),
        ({**TWO, "ray_address": "ray://head:10001"}, "expected HOST:PORT"),
        ({**TWO, "ray_address": "head:70000"}, "expected HOST:PORT"),
        ({**TWO, "ray_cpus": 1.5}, "ray_cpus is 1.5; allowed are numbers up to 1, and above 1 only whole numbers"),
        ({"ray_gpus": 1}, "ray_gpus is 1.0 with collector 'local'; set collector to 'ray'"),
        ({"collector": "processes", "ray_memory": 100}, "ray_memory is 100 with collector 'processes'"),
    ],
)
def test_options_that_ray_does_not_take_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        ppo.Config(**options)


def test_a_head_where_nobody_listens_is_told_at_once():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(ConfigError, match=rf"ray_address is {address}, which cannot be reached: connection refused"):
        ray_connection.check_reachable(address)


@pytest.mark.parametrize("backlog", [0, 10], ids=["drops packets", "is no Ray"])
def test_a_head_that_does_not_answer_is_given_up(backlog, monkeypatch):
    monkeypatch.setattr(ray_connection, "CONNECT_SECONDS", 2)
    with socket.socket() as silent, socket.socket() as first:
        silent.bind(("127.0.0.1", 0))
        silent.listen(backlog)
        if not backlog:
            # with its queue full, the system no longer answers
            first.connect(silent.getsockname())
        with pytest.raises(ConfigError, match=r"does not answer.*given up after 2 s"):
            ray_connection.check_reachable(f"127.0.0.1:{silent.getsockname()[1]}")


@contextlib.contextmanager
def command(*arguments, stderr=subprocess.PIPE):
    """An `rlpipe` in a session of its own, by which its processes can be found."""
    # which the Ray of these tests sets
    environment = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_MODE"}
    with subprocess.Popen(
        [sys.executable, "-m", "rlpipe", *map(str, arguments)],
        env={**environment, "RAY_AUTH_TOKEN": TOKEN},
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def processes_of(session):
    listed = subprocess.run(
        ["ps", "-wws", str(session), "-o", "stat=,args="], capture_output=True, text=True, check=False
    )
    return [line for line in listed.stdout.splitlines() if not line.startswith("Z")]


def wait_for(what, seconds=60):
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until
        time.sleep(0.1)


def test_nothing_is_left_of_a_run_that_was_interrupted(tmp_path):
    run, journal = tmp_path / "run", tmp_path / "run" / "metrics.jsonl"
    options = ["--collector", "ray", "--total-frames", 10_000_000, "--eval-every", 10_000_000, "--logger", "none"]
    with command("train", "ppo", *options, "--run-dir", run, "--quiet") as process:
        wait_for(lambda: (journal.is_file() and journal.stat().st_size) or process.poll() is not None)
        # to all of the terminal's foreground processes, as the terminal does
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert re.search(r"interrupted at frame \d+; what was written is in", err)
    assert newest_checkpoint(run) is not None
    assert out == ""
    wait_for(lambda: not processes_of(process.pid))


def test_a_module_that_collectors_do_not_find_is_named():
    died = ray.exceptions.RayError("x\n  File y\nrlpipe.errors.ConfigError: env_id names no module here")
    assert why_lost(died).endswith("env_id names no module here")


class Cluster:
    """A head and a second node on this machine, each with a folder of its own."""

    def __init__(self, folder):
        # the paths of sockets are short
        self._folder, self._environment = folder, {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.address = f"127.0.0.1:{self._port}"

    def start(self):
        self._start("h", 2, "--head", f"--port={self._port}", "--include-dashboard=false")
        self._start("n", 1, f"--address={self.address}")

    def _start(self, name, cpus, *options):
        common = [f"--num-cpus={cpus}", f"--temp-dir={self._folder / name}", "--disable-usage-stats"]
        ray_command = [sys.executable, "-m", "ray.scripts.scripts", "start", *options, *common]
        with open(os.devnull) as nothing, (self._folder / f"{name}.log").open("w") as log:
            subprocess.run(ray_command, check=True, env=self._environment, stdin=nothing, stdout=log, stderr=log)

    def processes(self, name):
        listed = subprocess.run(["ps", "-ewwo", "pid=,stat=,args="], capture_output=True, text=True, check=True).stdout
        split = [line.split(maxsplit=2) for line in listed.splitlines()]
        return [int(pid) for pid, stat, args in split if f"{self._folder / name}/" in args and not stat.startswith("Z")]

    def kill(self, name):
        for pid in self.processes(name):
            os.kill(pid, signal.SIGKILL)

    def kill_all(self):
        for name in ("n", "h"):
            self.kill(name)


@pytest.fixture
def cluster():
    folder = Path(tempfile.mkdtemp(prefix="rlpipe-test-", dir="/tmp"))
    made = Cluster(folder)
    try:
        made.start()
        yield made
    finally:
        made.kill_all()
        shutil.rmtree(folder, ignore_errors=True)


def test_a_collector_whose_machine_is_lost_goes_on_at_another(cluster, tmp_path):
    run, journal = tmp_path / "run", tmp_path / "run" / "metrics.jsonl"
    options = [*("--collector", "ray", "--num-collectors", 2, "--ray-address", cluster.address), "--quiet"]
    endless = ["--total-frames", 10_000_000, "--eval-every", 10_000_000, "--logger", "none", "--run-dir", run]
    errors = tmp_path / "stderr"
    with errors.open("w") as stream, command("train", "ppo", *options, *endless, stderr=stream) as process:
        wait_for(lambda: (journal.is_file() and journal.stat().st_size) or process.poll() is not None)
        assert process.poll() is None, errors.read_text()
        cluster.kill("n")
        wait_for(lambda: "was lost" in errors.read_text() or process.poll() is not None)
        size = journal.stat().st_size
        wait_for(lambda: journal.stat().st_size > size + 1000 or process.poll() is not None)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
    told = errors.read_text().strip().splitlines()
    assert re.fullmatch(
        r"rlpipe: collector \d of 2 was lost \(.*\); starting another one in its place, with fresh episodes", told[0]
    )
    assert "terminated at frame" in told[-1]
    assert len([line for line in told if line]) == 3
    # the cluster stays, without anything of the run
    head = cluster.processes("h")
    assert head
    wait_for(lambda: not any("ray::RayWorker" in line for line in children_of(head)))


def children_of(pids):
    listed = subprocess.run(["ps", "-ewwo", "ppid=,args="], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if int(line.split()[0]) in pids]
