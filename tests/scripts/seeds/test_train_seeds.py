"""Several seeds side by side: the same runs as lone ones, and whatever happens to one leaves the others."""

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from forked import Python
from rich.console import Console

from rlpipe.errors import ConfigError
from rlpipe.pipelines.algorithms.recipes import RECIPES
from rlpipe.pipelines.progress import Evaluation, Progress
from rlpipe.scripts.cli.seeds import read_seeds, spell
from rlpipe.scripts.cli.train_options import Options
from rlpipe.scripts.display.run_stats import RunStats
from rlpipe.scripts.main import run
from rlpipe.scripts.seeds.job import ProgressSender, progress_of
from rlpipe.scripts.seeds.progress_table import LiveTable, PlainTable, Seed, SeedTable
from rlpipe.scripts.seeds.results import Jobs
from rlpipe.scripts.seeds.train_seeds import read_jobs

QUICK = ["--total-frames", "512", "--eval-every", "256", "--eval-episodes", "2", "--final-eval-episodes", "3"]
PPO = ["ppo", *QUICK, "--num-envs", "4", "--rollout-steps", "16", "--minibatch-size", "32", "--epochs", "1"]
ENDLESS = [*PPO, "--total-frames", "1000000000", "--eval-every", "1000000000", "--checkpoint-every", "1000000000"]

# in step 100 of an environment, the first process that comes there does one thing, the second another
ENVIRONMENT = """
import os
import signal

import gymnasium as gym
from gymnasium.envs.classic_control import CartPoleEnv


def taken(name):
    try:
        os.close(os.open(name, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return True
    return False


class Eventful(CartPoleEnv):
    steps = 0

    def step(self, action):
        self.steps += 1
        if self.steps == 100:
            if not taken("first"):
                {first}
            elif not taken("second"):
                {second}
        return super().step(action)


gym.register("Eventful-v0", Eventful, max_episode_steps=500)
"""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def train(*arguments):
    """Exit code, stdout and stderr of `rlpipe train` in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(["train", *map(str, arguments)])
    return code, out.getvalue(), err.getvalue()


@contextlib.contextmanager
def forked_jobs():
    """Have the processes of jobs forked from one that has imported everything."""

    def popen(command, *, text, errors, **pipes):
        return Python(*command[1:], **pipes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rlpipe.scripts.seeds.processes.subprocess", SimpleNamespace(Popen=popen, PIPE=subprocess.PIPE))
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two seeds side by side: their parent folder, and what was printed."""
    parent = tmp_path_factory.mktemp("seeds") / "runs"
    with forked_jobs():
        return parent, *train(*PPO, "--seeds", "5,3", "--jobs", 2, "--run-dir", parent, "--json")


def what_was_learned(folder):
    """All of a run's journals but the times."""
    rows = []
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        for line in (Path(folder) / name).read_text().splitlines():
            row = json.loads(line)
            rows.append({key: row[key] for key in row.keys() - {"seconds", "frames_per_second"}})
    return rows


def test_a_seed_is_the_run_that_it_is_alone(trained):
    parent, code, *_ = trained
    assert code == 0
    assert train(*PPO, "--seed", 3, "--run-dir", "alone", "--quiet")[0] == 0
    assert what_was_learned(parent / "3") == what_was_learned("alone")
    assert what_was_learned(parent / "5") != what_was_learned("alone")
    names = [sorted(path.name for path in folder.iterdir()) for folder in (parent / "3", Path("alone"))]
    assert names[0] == names[1]


def test_the_results_are_those_of_the_table(trained, capsys):
    parent, _, out, err = trained
    found = json.loads(out)
    assert [(each["seed"], each["run"]) for each in found["summaries"]] == [
        (5, str(parent / "5")),
        (3, str(parent / "3")),
    ]
    assert (found["recipe"], found["env_id"], found["failed"]) == ("ppo", "CartPole-v1", [])
    assert run(["table", str(parent), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    # a summary has milliseconds
    assert found["row"].pop("seconds") == [round(each, 3) for each in row.pop("seconds")]
    assert found["row"] == row
    for seed in (3, 5):
        assert f"ppo on CartPole-v1: seed {seed} started, {parent / str(seed)}\n" in err
        assert f"ppo on CartPole-v1: seed {seed} finished at frame 512, evaluation return " in err


def eventful(tmp_path, monkeypatch, first, second="pass"):
    """Options for an environment in which something happens."""
    (tmp_path / "eventful.py").write_text(ENVIRONMENT.replace("{first}", first).replace("{second}", second))
    monkeypatch.syspath_prepend(str(tmp_path))
    return [*PPO, "--env-id", "eventful:Eventful-v0", "--checkpoint-every", "64"]


def test_seeds_that_are_killed_or_fail_leave_the_others(tmp_path, monkeypatch):
    options = eventful(
        tmp_path, monkeypatch, "os.kill(os.getpid(), signal.SIGKILL)", "raise ZeroDivisionError('of all things')"
    )
    with forked_jobs():
        code, out, err = train(*options, "--seeds", "0-2", "--quiet")
    assert code == 1
    folders = [next(Path("runs/ppo").glob(f"{seed}-*")) for seed in range(3)]
    killed, failed = err.splitlines()
    assert killed == (
        "rlpipe: error: seed 0 failed: its process was killed by SIGKILL; this often means that memory ran out; "
        f"continue with: rlpipe resume {folders[0]}"
    )
    assert failed.startswith("rlpipe: error: seed 1 failed: ")
    assert "ZeroDivisionError: of all things" in failed
    lines = out.splitlines()
    assert lines[0] == "ppo on eventful:Eventful-v0, 1 seed"
    assert lines[1].split() == ["seed", "evaluation", "return", "frames", "training", "in", "all", "run"]
    assert (lines[2].split()[0], lines[2].split()[-1]) == ("2", str(folders[2]))
    assert " (IQM of the seeds; one seed has no interval)" in lines[3]
    assert lines[4].startswith("  time ")
    assert len(lines) == 5


def test_json_names_the_seeds_that_failed(capsys):
    with forked_jobs():
        assert run(["train", *PPO, "--lr", "1e30", "--max-grad-norm", "none", "--seeds", "7", "--quiet", "--json"]) == 1
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    (folder,) = Path("runs/ppo").iterdir()
    ((seed, error, where),) = [tuple(each.values()) for each in found["failed"]]
    assert (found["summaries"], found["row"], seed, where) == ([], None, 7, str(folder))
    assert error.startswith("training stopped at frame ")
    assert printed.err == f"rlpipe: error: seed 7 failed: {error}\n"


def test_sigterm_stops_all_and_says_how_to_go_on(tmp_path, monkeypatch):
    # to the parent and to the process itself, as from a system that shuts down
    options = eventful(
        tmp_path, monkeypatch, "os.kill(os.getpid(), signal.SIGTERM); os.kill(os.getppid(), signal.SIGTERM)"
    )
    code, out, err = train(*options, "--total-frames", 10**9, "--seeds", "0,1,4,5", "--quiet")
    (folder,) = Path("runs/ppo").iterdir()
    assert (code, out) == (143, "")
    assert err.splitlines() == [
        "rlpipe: terminated; 0 of 4 seeds had finished",
        f"  continue seed 0 with: rlpipe resume {folder}",
        "  not started: --seeds 1,4-5",
    ]
    assert list((folder / "checkpoints").iterdir())


def test_a_seed_that_has_written_nothing_is_not_gone_on_with(tmp_path):
    options = Options(RECIPES["ppo"].config(), run_dir=tmp_path)
    jobs = Jobs(RECIPES["ppo"], options, None, [0, 1, 2])
    for seed in (0, 1):
        jobs.job(seed)
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "config.json").touch()
    assert jobs.how_to_continue("interrupted").splitlines()[1:] == [
        f"  continue seed 1 with: rlpipe resume {tmp_path / '1'}",
        "  not started: --seeds 0,2",
    ]


def test_what_no_seed_can_be_trained_with_is_one_line():
    with forked_jobs():
        code, out, err = train(*PPO, "--env-id", "CartPool-v1", "--seeds", "0-9", "--quiet")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "did you mean CartPole-v1" in err
    assert not Path("runs").exists()


def begin(*arguments):
    """`rlpipe train` in a session of its own, once two seeds have begun to train."""
    process = Python("-m", "rlpipe", "train", *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, session=True)
    until = time.monotonic() + 300
    while sum(bool(path.read_text()) for path in Path("runs").rglob("metrics.jsonl")) < 2:
        assert time.monotonic() < until
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    return process


def group_is_gone(group):
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_ctrl_c_stops_all_and_leaves_nothing_running():
    process = begin(*ENDLESS, "--seeds", "0-2", "--jobs", "2")
    # as a terminal does: to every process of the group
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=300)
    folders = sorted(Path("runs/ppo").iterdir())
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-4:] == [
        "rlpipe: interrupted; 0 of 3 seeds had finished",
        *[f"  continue seed {seed} with: rlpipe resume {folder}" for seed, folder in enumerate(folders)],
        "  not started: --seeds 2",
    ]
    assert all(list((folder / "checkpoints").glob("frames-*")) for folder in folders)
    assert "Traceback" not in err
    assert group_is_gone(process.pid)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_no_job_outlives_a_killed_parent():
    process = begin(*ENDLESS, "--seeds", "0-1", "--jobs", "2", "--quiet")
    process.kill()
    process.communicate(timeout=300)
    assert group_is_gone(process.pid)


@pytest.mark.slow
def test_ray_trains_the_same(trained):
    pytest.importorskip("ray")
    command = [sys.executable, "-m", "rlpipe", "train", *PPO, "--seeds", "3", "--jobs", "ray", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert all(line.startswith("ppo on CartPole-v1: ") for line in done.stderr.splitlines())
    found = json.loads(done.stdout)
    assert [each["seed"] for each in found["summaries"]] == [3]
    # relative, because it is on this machine
    assert found["summaries"][0]["run"].startswith("runs/ppo/3-")
    assert what_was_learned(found["summaries"][0]["run"]) == what_was_learned(trained[0] / "3")


def refused(*arguments):
    """Train with options that must be refused, and return the one line."""
    code, out, err = train(*arguments)
    assert (code, out, err.count("\n"), list(Path().iterdir())) == (2, "", 1, [])
    return err


def test_seeds_and_collectors_on_ray_at_once_are_refused():
    # each would wait for the room that the other has
    options = ["--seeds", "0-1", "--jobs", "ray", "--collector", "ray"]
    assert "--jobs 1 with --collector ray, or --jobs ray alone" in refused("ppo", *options)


def test_ray_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert 'pip install "rlpipe[ray]"' in refused("ppo", "--seeds", "0-1", "--jobs", "ray")


@pytest.mark.slow
def test_a_ray_cluster_that_does_not_answer(monkeypatch):
    pytest.importorskip("ray")
    from rlpipe.scripts.seeds.ray_tasks import RayTasks

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(ConfigError, match=f"ray_address is 127.0.0.1:{port}, which cannot be reached"):
        RayTasks(f"127.0.0.1:{port}", 1, "cpu")
    monkeypatch.setenv("RAY_ADDRESS", "here")
    with pytest.raises(ConfigError, match="the variable RAY_ADDRESS is 'here'; expected HOST:PORT"):
        RayTasks(None, 1, "cpu")


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("0-9", [*range(10)]), ("0,3,7", [0, 3, 7]), ("1-3, 8", [1, 2, 3, 8]), ("7", [7]), ("9,0", [9, 0]), ("3-3", [3])],
)
def test_seeds(text, seeds):
    assert read_seeds(text) == seeds
    assert read_seeds(spell(seeds)) == seeds


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seeds", "a"], "seeds is 'a'; expected numbers and ranges, such as 0-9 or 0,3,7 or 1-3,8"),
        (["--seeds", "1,,2"], "expected numbers and ranges"),
        (["--seeds", "-3"], "expected numbers and ranges"),
        (["--seeds", "٣"], "expected numbers and ranges"),
        (["--seeds", "9-0"], "9-0 runs backwards; write 0-9"),
        (["--seeds", "0-3,2"], "names seed 2 more than once"),
        (["--seeds", "0-1000"], "allowed are at most 1000 seeds"),
        (["--seeds", "0-99999999999999"], "allowed are at most 1000 seeds"),
        (["--seeds", str(2**63)], f"allowed is at most {2**63 - 1} for each"),
        (["--seeds", "0-1", "--seed", "0"], "--seed names one seed and --seeds several"),
        (["--seeds", "0-1", "--seed=0"], "--seed names one seed and --seeds several"),
        (["--seeds", "0-1", "--watch"], "--watch shows one run"),
        (["--seeds", "0-1", "--jobs", "0"], "jobs is '0'; expected how many seeds to train at once"),
        (["--seeds", "0-1", "--jobs", "2.5"], "jobs is '2.5'; expected how many"),
        (["--seeds", "0-1", "--logger", "paper"], "paper"),
        (["--jobs", "2"], "--jobs 2 is the number of seeds to train at once; add --seeds 0-9"),
    ],
)
def test_bad_options(options, message):
    assert message in refused("ppo", *options)


def test_seeds_of_a_resumed_run_are_no_option(capsys):
    assert run(["train", "--resume", "somewhere", "--seeds", "0-3"]) == 2
    assert "no option is called --seeds" in capsys.readouterr().err


def test_folders_that_are_there_already(trained):
    parent = trained[0]
    code, _, err = train("ppo", "--seeds", "1-3", "--run-dir", parent)
    assert (code, err) == (
        2,
        f"rlpipe: error: run-dir {parent / '3'} exists already; nothing was overwritten, name a new one\n",
    )
    code, _, err = train("ppo", "--seeds", "1-3", "--run-dir", parent / "3")
    assert code == 2
    assert f"run-dir {parent / '3'} is a run folder" in err


def test_jobs():
    assert (read_jobs("3"), read_jobs("ray"), read_jobs("Ray")) == (3, None, None)


def test_progress_comes_through_whole_but_not_too_often():
    told = []
    report = ProgressSender(told.append, window=3)
    report(Progress("starting", 0))
    for index in range(1, 6):
        report(Progress("training", 10 * index, 5, index, 1.0, {"loss_td": 1.0}, (float(index),), (index,)))
    evaluation = Evaluation((1.5, float("inf")), (3, 4))
    report(Progress("evaluated", 50, 5, 5, 1.0, evaluation=evaluation, final=True))
    received = [progress_of(json.loads(json.dumps(message))) for message in told]
    assert received == [
        Progress("starting", 0, returns=[], lengths=[]),
        # the latest episodes of the lines in between
        Progress("evaluated", 50, 5, 5, 1.0, {}, [3.0, 4.0, 5.0], [3, 4, 5], evaluation, True),
    ]


def some_seeds(number=9):
    """One of each kind, and as many that wait as are missing."""
    known = {seed: Seed(RunStats(f"seed {seed}", Path("x"), 10_000, 100, 0.0, None)) for seed in range(number)}
    for seed, ended in enumerate(("finished", "failed", "stopped", "", "")):
        known[seed].begun, known[seed].ended = True, ended
        for frames in (500, 1000, 1500):
            known[seed].stats.add(Progress("training", frames, 1, 1, frames / 500, {}, (-12.5,), (7,)), 0.0)
    known[3].stats.add(Progress("evaluated", 1500, evaluation=Evaluation((1234.5,), (3,))), 0.0)
    known[3].stats.add(Progress("training", 2000, 1, 1, 4.0), 0.0)
    known[4].stats.add(Progress("evaluating", 2000, final=True), 0.0)
    return SeedTable("ppo on \x1b[2JCartPole-v1", known, began=time.monotonic())


def drawn(seeds, width, height):
    console = Console(file=io.StringIO(), width=width, height=height)
    console.print(seeds.render(width, height), end="")
    return console.file.getvalue().splitlines()


def test_the_table_tells_of_each_seed():
    lines = drawn(some_seeds(), 100, 24)
    assert lines[0].startswith("ppo on ?[2JCartPole-v1 ")
    assert lines[0].endswith("1 finished, 1 failed, 1 stopped, 2 running, 4 waiting  0:00")
    assert lines[1].split("  ")[0] == "seed"
    assert [line.split()[:2] for line in lines[2:5]] == [["0", "finished"], ["1", "failed"], ["2", "stopped"]]
    assert lines[5].split() == ["3", "training", "2,000", "20%", "500", "0:16", "-12.5", "1,234.5", "+-", "0.0"]
    assert lines[6].split()[1] == "evaluation"
    assert lines[7].split() == ["5", "waiting"]
    assert len(lines) == 11


@pytest.mark.parametrize("size", [(80, 24), (200, 50), (60, 8), (40, 4), (20, 2), (5, 1)])
def test_the_table_fits_any_terminal(size):
    width, height = size
    for number in (5, 300):
        lines = drawn(some_seeds(number), width, height)
        assert len(lines) <= height
        assert max(map(len, lines)) <= width


def test_what_fails_and_runs_is_shown_where_there_is_no_room_for_all():
    lines = drawn(some_seeds(300), 80, 8)
    assert [line.split()[0] for line in lines[2:7]] == ["0", "1", "2", "3", "4"]
    assert lines[7] == "and 295 more seeds, which do not fit here"


def test_a_terminal_that_has_gone_is_no_failure_of_the_runs(capsys):
    console = Console(file=io.StringIO(), force_terminal=True)
    table = LiveTable(some_seeds(), console)
    table.announce("a warning")
    table.draw()
    assert "a warning" in console.file.getvalue()
    console.file.close()
    table.draw(last=True)
    table.announce("a later warning")
    table.close()
    err = capsys.readouterr().err
    assert err.count("progress display stopped") == err.count("a later warning") == 1


def test_plain_lines_are_not_repeated(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("rlpipe.scripts.seeds.progress_table.time.monotonic", lambda: now[0])
    plain = PlainTable(some_seeds(5))
    for second in range(20):
        now[0] = float(second)
        plain.draw()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(
        ": 1 finished, 1 failed, 1 stopped, 2 running; seed 3 training, 2,000 of 10,000 frames; "
        "seed 4 final evaluation, 2,000 of 10,000 frames"
    )


def test_colours_can_be_read_on_white_and_on_black():
    text = some_seeds().render(100, 24)
    used = {str(each.style) for each in text.spans} - {""}
    assert used == {"bold", "dim", "green", "red", "magenta"}


def test_the_columns_stay_while_states_change():
    seeds = some_seeds()
    wide = drawn(seeds, 100, 24)[1]
    for known in seeds.all.values():
        known.ended = "failed"
    assert drawn(seeds, 100, 24)[1] == wide
