"""Folders of runs that begin at the same moment, and what is left of one that could not begin."""

import datetime
import json
import multiprocessing
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from rlpipe import ConfigError, run_recipe
from rlpipe.pipelines.runs import new_folder
from rlpipe.pipelines.runs.new_folder import claimed, default_folder
from rlpipe.scripts.main import run

TINY = {"total_frames": 64, "num_envs": 2, "rollout_steps": 16, "minibatch_size": 16, "final_eval_episodes": 1}
TYPED = [word for name, value in TINY.items() for word in (f"--{name.replace('_', '-')}", str(value))]
CLOCK = "20200131-235959"


@pytest.fixture(autouse=True)
def one_second(tmp_path, monkeypatch):
    """A clock that stands still, in an empty folder."""

    stopped = datetime.datetime.strptime(CLOCK, "%Y%m%d-%H%M%S")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(new_folder, "datetime", SimpleNamespace(datetime=SimpleNamespace(now=lambda: stopped)))


def hold(folder, barrier):
    barrier.wait()
    with claimed(folder, numbered=True) as made:
        (made / "config.json").write_text("{}")
    return made.name


def hold_into(folder, barrier, names):
    names.put(hold(folder, barrier))


def expected(count):
    return {f"4-{CLOCK}", *(f"4-{CLOCK}-{number}" for number in range(2, count + 1))}


def test_a_default_folder_names_recipe_seed_and_time():
    assert default_folder("dqn/target-network", 4) == Path("runs/dqn/target-network", f"4-{CLOCK}")


def test_threads_that_begin_together_have_a_folder_each():
    barrier = threading.Barrier(16)
    with ThreadPoolExecutor(16) as pool:
        names = set(pool.map(lambda _: hold(default_folder("ppo", 4), barrier), range(16)))
    assert names == expected(16)


def test_processes_that_begin_together_have_a_folder_each():
    context = multiprocessing.get_context("fork")
    barrier, names = context.Barrier(6), context.SimpleQueue()
    processes = [context.Process(target=hold_into, args=(default_folder("ppo", 4), barrier, names)) for _ in range(6)]
    for process in processes:
        process.start()
    assert {names.get() for _ in processes} == expected(6)
    for process in processes:
        process.join()


def test_runs_of_one_second_take_the_next_name_each():
    summaries = [run_recipe("ppo", seed=4, loggers=None, **TINY) for _ in range(2)]
    assert run(["train", "ppo", *TYPED, "--seed", "4", "--quiet"]) == 0
    assert [summary["run"] for summary in summaries] == [f"runs/ppo/4-{CLOCK}", f"runs/ppo/4-{CLOCK}-2"]
    assert {path.name for path in Path("runs/ppo").iterdir()} == expected(3)


def test_the_folder_is_there_before_anything_is_built(monkeypatch):
    found = []

    def build(_, config):
        found.extend(path.name for path in Path("runs/ppo").iterdir())
        raise ConfigError("cannot be built")

    monkeypatch.setattr("rlpipe.pipelines.algorithms.recipes.Recipe.build", build)
    with pytest.raises(ConfigError, match="cannot be built"):
        run_recipe("ppo", seed=4)
    assert found == [f"4-{CLOCK}"]
    # and nothing of it is left
    assert not Path("runs").exists()


@pytest.mark.parametrize("numbered", [False, True])
def test_what_was_there_before_is_left(numbered):
    Path("runs/ppo").mkdir(parents=True)
    with claimed(Path("runs/ppo/4"), numbered=numbered) as made:
        assert made.is_dir()
    assert not made.exists()
    assert Path("runs/ppo").is_dir()
    Path("runs/ppo/4").mkdir()
    if not numbered:
        with pytest.raises(ConfigError, match="run-dir runs/ppo/4 exists already; nothing was overwritten"):
            claimed(Path("runs/ppo/4")).__enter__()
    assert list(Path("runs/ppo").iterdir()) == [Path("runs/ppo/4")]


@pytest.mark.parametrize("kind", ["file", "link to nothing", "read-only"])
def test_where_no_folder_can_be_made(kind, capsys):
    if kind == "file":
        Path("runs").write_text("mine")
    elif kind == "link to nothing":
        Path("runs").symlink_to("nowhere")
    elif os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    else:
        Path.cwd().chmod(0o500)
    assert run(["train", "ppo", *TYPED, "--quiet"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"rlpipe: error: run-dir runs/ppo/0-{CLOCK} cannot be made: ")


def test_an_empty_folder_above_that_another_process_removes(monkeypatch):
    make, gone = Path.mkdir, []

    def remove_first(self, *arguments, **options):
        if not gone:
            gone.append(self)
            raise FileNotFoundError(2, "No such file or directory")
        make(self, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", remove_first)
    with claimed(Path("runs/ppo/4")) as made:
        assert made.is_dir()


def test_seeds_in_processes_take_the_next_names(capsys):
    taken = Path(f"runs/ppo/4-{CLOCK}")
    taken.mkdir(parents=True)
    assert run(["train", "ppo", *TYPED, "--seeds", "4-5", "--jobs", "2", "--json", "--quiet"]) == 0
    summaries = json.loads(capsys.readouterr().out)["summaries"]
    assert [each["run"] for each in summaries] == [f"runs/ppo/4-{CLOCK}-2", f"runs/ppo/5-{CLOCK}"]
    assert all(Path(each["run"], "curve.png").is_file() for each in summaries)
    assert not list(taken.iterdir())
