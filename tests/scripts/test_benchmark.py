"""`rlpipe benchmark` as its user meets it, and small runs of what it measures. No test asserts a time."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rlpipe.errors import RlpipeError
from rlpipe.pipelines.envs import EnvConfig, make_env
from rlpipe.scripts import benchmark
from rlpipe.scripts.benchmarks import collect, scale, solve
from rlpipe.scripts.benchmarks.collect import Case
from rlpipe.scripts.benchmarks.measure import Row
from rlpipe.scripts.main import run

ROOT = Path(__file__).parents[2]
ROW = Row("one", "s", {"rlpipe": [1.0, 2.0], "torchrl": [3.0, 4.0]})


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def measured(monkeypatch):
    """Puts rows in place of measurements; returns the arguments that `run` was called with."""
    calls = []

    def fake(**arguments):
        calls.append(arguments)
        arguments["progress"]("one is done")
        return [ROW]

    for each in (collect, solve):
        monkeypatch.setattr(each, "run", fake)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "stable_baselines3" or find(name))
    return calls


@pytest.fixture
def without_sb3(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "stable_baselines3" else find(name))


def test_torchrl_is_quiet_where_it_was_not_imported_yet():
    code = (
        "import logging\n"
        "from rlpipe.scripts import benchmark\n"
        "from rlpipe.scripts.benchmarks import atari\n"
        "atari.run = lambda **_: [__import__('torchrl')]\n"
        "benchmark._measure('atari', [], True, [0])\n"
        "assert logging.getLogger('torchrl').level == logging.WARNING\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def refused(capsys, *arguments):
    assert run(["benchmark", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    assert list(Path().iterdir()) == []
    return captured.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["colect"], "no benchmark is called 'colect'; did you mean collect?"),
        (["zzz"], "there are collect, update, solve, scale, atari, collectors"),
        (["--quick"], "the benchmark comes before the options, got '--quick'; try: rlpipe benchmark collect --quick"),
        (["collect", "--quik"], "no option is called --quik; did you mean --quick?"),
        (["collect", "--against", "sb4"], "against has 'sb4'; did you mean sb3?"),
        (["collect", "--against", "torchrl,"], "against has ''; there are torchrl, sb3"),
        (["collect", "--seeds", "0,x"], "seeds is '0,x'; expected numbers and ranges"),
        (["collect", "--seeds", "-1"], "seeds"),
        (["collect", "--seeds=-1"], "seeds is '-1'; expected numbers and ranges"),
        (["collect", "--seeds", "4294967296"], "seeds is '4294967296'; allowed is at most 4294967295"),
        (["collect", "--seeds", "3,1,3"], "seeds is '3,1,3', which names seed 3 more than once"),
        (["solve", "--against", "torchrl-trainr"], "against has 'torchrl-trainr'; did you mean torchrl-trainer?"),
        (["solve", "--algorithms", "ppo,sac"], "algorithms has 'sac'; there are ppo, dqn, a2c, reinforce"),
        (["solve", "--algorithms", "none"], "algorithms is 'none'; expected some of ppo, dqn, a2c, reinforce"),
        (["solve", "--frames", "0"], "frames is 0; allowed is 1 or more"),
        (["solve", "--seeds", "1", "--seed-of-seeds", "2"], "seeds and seed_of_seeds are both given"),
        (["collect", "--algorithms", "ppo"], "no option is called --algorithms"),
        (["collect", "--out", "here.txt"], "out is here.txt; expected a name that ends in .json"),
        (["collect", "--out", "/proc/no/here.json"], "cannot be written"),
        (["collect", "more"], "more"),
    ],
)
def test_bad_options_in_one_line(capsys, measured, arguments, said):
    assert said in refused(capsys, *arguments)
    assert measured == []


def test_progress_table_json_and_plot(capsys, measured):
    assert run(["benchmark", "collect", "--against", "sb3,torchrl", "--seeds", "7,1", "--quick"]) == 0
    captured = capsys.readouterr()
    assert captured.err == f"rlpipe: collect: one is done\nrlpipe: collect: {ROW}\n"
    (arguments,) = measured
    assert arguments["against"] == ["torchrl", "sb3"]
    assert (arguments["seeds"], arguments["quick"]) == ([7, 1], True)
    assert captured.out.startswith("| case | unit | rlpipe | torchrl |\n")
    written = sorted(Path("runs/benchmark").iterdir())
    assert [path.suffix for path in written] == [".json", ".png"]
    assert captured.out.endswith(f"\n\nwritten to {written[0]}\n")
    content = json.loads(written[0].read_text())
    assert content["command"] == "rlpipe benchmark collect --against sb3,torchrl --seeds 7,1 --quick"
    assert content["interrupted"] is False
    assert content["rows"][0]["samples"] == ROW.samples


def test_json_on_stdout_is_the_file(capsys, measured):
    assert (
        run(["benchmark", "collect", "--against", "none", "--seeds", "2-4", "--json", "--out", "deep/er/here.json"])
        == 0
    )
    assert json.loads(capsys.readouterr().out) == json.loads(Path("deep/er/here.json").read_text())
    assert Path("deep/er/here.png").exists()
    assert (measured[0]["against"], measured[0]["seeds"]) == ([], [2, 3, 4])
    assert run(["benchmark", "collect", "--out", "deep/er/here.json"]) == 2
    assert "exists already; nothing was overwritten" in capsys.readouterr().err
    assert len(measured) == 1


def test_solve_draws_ten_seeds_that_can_be_drawn_again(capsys, measured):
    assert run(["benchmark", "solve", "--out", "first.json"]) == 0
    first = measured[-1]
    assert (len(set(first["seeds"])), first["frames"]) == (10, None)
    assert first["against"] == ["torchrl", "torchrl trainer", "sb3"]
    assert first["algorithms"] == ["ppo", "dqn", "a2c", "reinforce"]
    content = json.loads(Path("first.json").read_text())
    assert content["seeds"] == first["seeds"]
    said = f"seeds {', '.join(map(str, first['seeds']))}; drawn from --seed-of-seeds {content['seed_of_seeds']}"
    assert said in capsys.readouterr().err
    again = ["--seed-of-seeds", str(content["seed_of_seeds"]), "--algorithms", "a2c,ppo", "--frames", "7"]
    assert run(["benchmark", "solve", *again]) == 0
    assert measured[-1]["seeds"] == first["seeds"]
    assert (measured[-1]["algorithms"], measured[-1]["frames"]) == (["ppo", "a2c"], 7)
    assert run(["benchmark", "solve"]) == 0
    assert measured[-1]["seeds"] != first["seeds"]
    assert run(["benchmark", "solve", "--seeds", "4,2", "--against", "torchrl-serial"]) == 0
    assert (measured[-1]["seeds"], measured[-1]["against"]) == ([4, 2], ["torchrl serial"])
    assert run(["benchmark", "solve", "--quick"]) == 0
    assert len(measured[-1]["seeds"]) == 1


def test_the_names_of_solve_are_those_that_it_knows():
    assert list(benchmark.ALGORITHMS) == list(solve.BUDGETS)
    names = [name.replace("-", " ") for name in benchmark.RACERS]
    assert list(solve.make_runners("ppo", names)) == ["rlpipe", *names]


def test_without_stable_baselines3(capsys, measured, without_sb3):
    assert 'pip install "rlpipe[benchmark]"' in refused(capsys, "collect", "--against", "sb3")
    assert 'pip install "rlpipe[benchmark]"' in refused(capsys, "collect", "--against=torchrl,sb3")
    assert run(["benchmark", "collect"]) == 0
    assert "rlpipe: note: without sb3; Stable-Baselines3 is not installed" in capsys.readouterr().err
    assert run(["benchmark", "collect", "--against", "torchrl"]) == 0
    assert "note" not in capsys.readouterr().err
    assert [call["against"] for call in measured] == [["torchrl"], ["torchrl"]]


@pytest.mark.parametrize("rows", [[ROW], []])
def test_an_interrupt_leaves_what_was_measured(capsys, monkeypatch, rows):
    def stop(**arguments):
        yield from rows
        raise KeyboardInterrupt

    monkeypatch.setattr(collect, "run", stop)
    assert run(["benchmark", "collect", "--out", "here.json"]) == 130
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("\n")) == ("", 1 + len(rows))
    assert Path("here.json").exists() == Path("here.png").exists() == bool(rows)
    if rows:
        assert "what was measured so far is in here.json" in captured.err
        assert json.loads(Path("here.json").read_text())["interrupted"] is True


def test_nothing_to_measure_is_an_error(capsys, monkeypatch):
    monkeypatch.setattr(collect, "run", lambda **arguments: [])
    assert run(["benchmark", "collect"]) == 2
    assert "nothing to measure" in capsys.readouterr().err


def test_help_is_quick_and_the_script_works_too():
    code = "import sys; from rlpipe.scripts.main import run; run(['benchmark', 'collect', '--seds', '1'])"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; print('torch' in sys.modules)"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
    assert "did you mean --seeds?" in done.stderr
    script = [sys.executable, str(ROOT / "scripts" / "benchmark.py")]
    done = subprocess.run([*script, "collet"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean collect?" in done.stderr
    assert run(["benchmark"]) == 0


def test_help_names_every_benchmark(capsys):
    assert run(["benchmark", "--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"  {name} " in printed for name in benchmark.BENCHMARKS)


@pytest.fixture
def short(monkeypatch):
    """Repetitions of one rollout of 8 steps."""
    monkeypatch.setattr(collect, "SECONDS", 1e-9)
    monkeypatch.setattr(Case, "steps", 8)


@pytest.mark.usefixtures("short")
def test_collect_measures_every_arm():
    cases = [Case("CartPole-v1", 1), Case("CartPole-v1", 3), Case("InvertedDoublePendulum-v5", 2)]
    others = ["torchrl", "sb3"] if importlib.util.find_spec("stable_baselines3") else ["torchrl"]
    rows = list(collect.run(against=others, quick=True, seeds=[3], progress=print, cases=cases))
    assert [row.case for row in rows] == [
        "CartPole-v1, 1 environment",
        "CartPole-v1, 3 environments",
        "InvertedDoublePendulum-v5, 2 environments",
    ]
    for row, case in zip(rows, cases, strict=True):
        halves = ["environment", "network"] if case.env_id == "CartPole-v1" else []
        theirs = ["torchrl", "torchrl same step", *["torchrl serial"] * (case.num_envs > 1)]
        theirs += ["rlpipe, with GAE", "sb3"] if "sb3" in others else []
        assert list(row.samples) == ["rlpipe", "stock collector", *theirs, "floor", *halves]
        assert all(len(samples) == 3 for samples in row.samples.values())
        assert row.extra["frames_per_second"]["floor"] == pytest.approx(1e6 * case.num_envs / row.medians["floor"])
        assert "note" not in row.extra


@pytest.mark.usefixtures("short")
def test_many_environments_leave_others_out_or_take_few_steps_where_they_are_slow(monkeypatch):
    monkeypatch.setattr(collect, "MANY", 2)
    case = Case("CartPole-v1", 2)
    (quick,) = collect.run(against=["torchrl"], quick=True, seeds=[0], progress=print, cases=[case])
    assert list(quick.samples) == ["rlpipe", "stock collector", "floor", "environment", "network"]
    assert "without the arms of other libraries" in quick.extra["note"]
    full = collect.measure(case, ["torchrl"], repeats=1, seed=0)
    assert full.extra["steps"].pop("torchrl serial") == 4
    assert set(full.extra["steps"].values()) == {8}
    assert "torchrl serial in rollouts of 4 steps instead of 8" in full.extra["note"]


@pytest.mark.usefixtures("short")
def test_an_environment_that_is_missing_is_left_out_once():
    lines = []
    cases = [Case("Missing-v0", 1), Case("CartPole-v1", 1), Case("Missing-v0", 8)]
    rows = collect.run(against=[], quick=True, seeds=[0], progress=lines.append, cases=cases)
    assert [row.case for row in rows] == ["CartPole-v1, 1 environment"]
    assert sum("Missing-v0 is left out: " in line for line in lines) == 1


def test_steps_of_a_rollout():
    assert [Case("x", number).steps for number in (1, 8, 32, 64, 4096)] == [256, 128, 32, 32, 32]


def test_the_floor_steps_the_environment_and_the_network():
    env = make_env(EnvConfig("CartPole-v1", 2), seed=0)
    seen = []

    def network(observation):
        assert torch.is_inference_mode_enabled()
        seen.append(observation.clone())

    collect.floor_rollout(env, network, 5)()
    assert [tuple(each.shape) for each in seen] == [(2, 4)] * 5
    assert not torch.equal(seen[0], seen[1])
    env.close()


def test_each_half_of_the_floor_does_its_own(monkeypatch):
    env = make_env(EnvConfig("CartPole-v1", 2), seed=0)
    step, seen, stepped = env.base_env.envs.step, [], []
    monkeypatch.setattr(env.base_env.envs, "step", lambda action: stepped.append(action) or step(action))

    def network(observation):
        assert torch.is_inference_mode_enabled()
        seen.append(tuple(observation.shape))

    environment = collect.environment_rollout(env, 5)
    environment()
    assert (len(stepped), seen) == (5, [])
    bare = collect.network_rollout(env, network, 5)
    stepped.clear()
    bare()
    assert (stepped, seen) == ([], [(2, 4)] * 5)
    env.close()


@pytest.mark.usefixtures("short")
def test_scale_in_small(monkeypatch):
    # a training run and an import in processes of their own take many seconds
    monkeypatch.setattr(scale, "_TRAIN", "print(3.0)")
    monkeypatch.setattr(scale, "_IMPORT", "print(2.0)")
    rows = list(scale.run(quick=True, seeds=[1], environments=[2], capacities=[1_000]))
    assert [(row.case, row.unit) for row in rows] == [
        ("CartPole-v1, 2 environments", "us a vector step"),
        ("memory of CartPole-v1, 2 environments", "MB"),
        ("replay of 1 000 transitions: storage", "MB"),
        ("replay of 1 000 transitions: filling", "us"),
        ("replay of 1 000 transitions: median extend", "us"),
        ("replay of 1 000 transitions: longest extend", "us"),
        ("replay of 1 000 transitions: sample of 256", "us"),
        ("peak memory of rlpipe train ppo", "MB"),
    ]
    assert list(rows[0].samples) == ["rlpipe", "floor"]
    by_case = {row.case.rpartition(": ")[2]: row.medians["rlpipe"] for row in rows}
    # two observations of 4 floats are the least of a transition
    assert 32 * 1_000 < by_case["storage"] * 2**20 < 200 * 1_000
    assert by_case["longest extend"] >= by_case["median extend"]
    assert rows[-1].medians == {"rlpipe": 3.0, "import torchrl.collectors": 2.0}
    assert "1.50 times" in rows[-1].extra["note"]


def test_the_peak_of_a_process_is_its_own():
    ballast = torch.ones(64 * 2**20, dtype=torch.uint8)
    least = scale._in_process("print(peak())")
    assert 1 < least < 64
    grown = scale._in_process("peak(start=True); x = bytearray(b'1') * 2**26; del x; print(peak())")
    assert least + 60 < grown < least + 100
    forgotten = scale._in_process("x = bytearray(b'1') * 2**26; del x; peak(start=True); print(peak())")
    assert forgotten < least + 30
    del ballast


def test_a_process_that_fails_is_told_in_one_line(monkeypatch):
    monkeypatch.setattr(scale, "_IMPORT", "raise ValueError('of this kind')")
    monkeypatch.setattr(scale, "_TRAIN", "print(1.0)")
    with pytest.raises(RlpipeError, match="failed: ValueError: of this kind"):
        scale.training_memory(repeats=1, seed=0)
