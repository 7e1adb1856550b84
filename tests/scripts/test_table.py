"""`rlpipe table`: run folders in, a table out. The folders are written by hand, but for one test."""

import dataclasses
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from folders import write_run

from rlpipe.pipelines.algorithms.recipes import RECIPES
from rlpipe.scripts.main import run
from rlpipe.scripts.reports.groups import collect

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def table(capsys, *arguments):
    """The JSON rows and what stderr says."""
    assert run(["table", *arguments, "--json"]) == 0
    captured = capsys.readouterr()
    return json.loads(captured.out)["rows"], captured.err


def refused(capsys, *arguments):
    assert run(["table", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    return captured.err


def test_the_table_as_printed(capsys):
    for seed, (score, seconds) in enumerate([(0.0, 4.0), (0.0, 4.5), (0.0, 4.44), (0.0, 4.4), (10.0, 5.0)]):
        write_run(f"runs/ppo/{seed}", seed=seed, score=score, seconds=seconds)
    write_run("runs/dqn/a/7", "dqn", seed=7, score=-0.004, seconds=115.2, frames=1_234_567)
    for seed, frames in ((1, 13_312), (2, 22_528)):
        write_run(f"runs/{seed}", seed=seed, score=-12_345.67, frames=frames, env_id="Acrobot-v1", total_frames=100_000)
    assert run(["table"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.splitlines() == [
        "| recipe | environment | seeds | frames | training seconds | evaluation return (IQM, 95 % interval) "
        "| of each seed |",
        "|---|---|---|---|---|---|---|",
        # of 5 scores, k of them 10 with k binomial (5, 0.2): P(k > 2) = 5.8 %, P(k > 3) = 0.7 %, and 3 give 20 / 3
        "| `ppo` | CartPole-v1 | 0, 1, 2, 3, 4 | 50 176 | 4.4 (4.0 to 5.0) | 0.0 (0.0 to 6.7) |"
        " 0.0, 0.0, 0.0, 0.0, 10.0 |",
        "| `ppo --env-id Acrobot-v1 --total-frames 100000` | Acrobot-v1 | 1, 2 | 17 920 (13 312 to 22 528) | 4.0 |"
        " -12 345.7 (-12 345.7 to -12 345.7) | -12 345.7, -12 345.7 |",
        "| `dqn` | CartPole-v1 | 7 | 1 234 567 | 115 | -0.00400 (one seed) | -0.00400 |",
    ]


def test_json(capsys):
    write_run("runs/b", seed=1, score=2.0, frames=200, seconds=2.0)
    write_run("runs/a", seed=0, score=1.0, frames=100, seconds=1.0)
    write_run("runs/c", "dqn", score=3.0)
    rows, _ = table(capsys)
    assert rows[0] == {
        "recipe": "ppo",
        "label": "ppo",
        "env_id": "CartPole-v1",
        "seeds": [0, 1],
        "frames": [100, 200],
        "seconds": [1.0, 2.0],
        "returns": [1.0, 2.0],
        "iqm": 1.5,
        # the mean of two draws is 1 once in four, and 2 once in four
        "low": 1.0,
        "high": 2.0,
    }
    assert (rows[1]["iqm"], rows[1]["low"], rows[1]["high"]) == (3.0, None, None)


def test_successes_have_a_column_if_a_run_has_some(capsys):
    for seed, successes in enumerate(([1.0, 0.0], [1.0, None], [None, None])):
        write_run(f"runs/{seed}", seed=seed, successes=successes)
    write_run("runs/dqn", "dqn", log_info=())
    assert run(["table"]) == 0
    head, line, *rows = capsys.readouterr().out.splitlines()
    assert head.endswith("| of each seed | success |")
    assert line.count("---") == 8
    assert [row.rpartition("|")[0].rpartition("|")[2].strip() for row in rows] == ["75.0 (50.0 to 100.0) %", ""]
    rows, _ = table(capsys)
    assert rows[0]["success_rates"] == [0.5, 1.0, None]
    assert "success_rates" not in rows[1]


def test_runs_that_log_other_numbers_of_infos_are_one_row(capsys):
    write_run("runs/0", seed=0, log_info=("speed",))
    write_run("runs/1", seed=1)
    rows, _ = table(capsys)
    assert [(row["label"], row["seeds"]) for row in rows] == [("ppo", [0, 1])]


@pytest.mark.parametrize("successes", [["yes"], [float("nan")], 3, [[1.0]]])
def test_successes_that_are_none_are_damage(successes, capsys):
    write_run("runs/a", successes=successes)
    assert "1 run left out, damaged: runs/a" in refused(capsys)


def test_rows_are_in_the_order_of_recipes_and_labels(capsys):
    for recipe in reversed(RECIPES):
        write_run(f"runs/{recipe}/x", recipe)
    write_run("runs/0", "ppo", lr=0.5)
    write_run("runs/1", "ppo", gamma=0.5)
    write_run("runs/2", described={"recipe": "a2c-of-old", "algorithm": "a2c-of-old", "config": {"seed": 0}})
    rows, _ = table(capsys)
    expected = [*RECIPES, "a2c-of-old"]
    after = expected.index("ppo") + 1
    expected[after:after] = ["ppo --gamma 0.5", "ppo --lr 0.5"]
    assert [row["label"] for row in rows] == expected


CHANGES = [
    {"normalize_advantage": False, "shared_trunk": True},
    {"hidden": (128, 32), "observation_scale": (2.0, 0.5, 1.0, 1.0)},
    {"max_grad_norm": None, "stop_at_return": 475.0, "lr": 1e-05},
    {"stop_at_return": -7.5, "backend": "async", "env_id": "my envs/Odd-v1.0"},
]


@pytest.mark.parametrize("changes", CHANGES)
def test_a_label_is_what_one_would_type(capsys, changes):
    from rlpipe.scripts.cli.options import parse

    write_run("runs/a", **changes)
    ((row,), _) = table(capsys)
    default = RECIPES["ppo"].config()
    recipe, *typed = shlex.split(row["label"])
    assert recipe == "ppo"
    assert len([word for word in typed if word.startswith("--")]) == len(changes)
    read = parse(type(default), typed, prog="", description="", default=default)
    assert read == dataclasses.replace(default, **changes)


def test_how_values_look_in_a_label(capsys):
    write_run("runs/a", **CHANGES[0])
    write_run("runs/b", **CHANGES[1])
    write_run("runs/c", **CHANGES[2])
    rows, _ = table(capsys)
    assert [row["label"] for row in rows] == [
        "ppo --hidden 128 32 --observation-scale 2 0.5 1 1",
        "ppo --no-normalize-advantage --shared-trunk",
        "ppo --stop-at-return 475 --lr 1e-05 --max-grad-norm None",
    ]


def test_a_whole_number_is_the_same_with_a_point(capsys):
    write_run("runs/a", seed=0, lr=1)
    write_run("runs/b", seed=1, lr=1.0)
    write_run("runs/c", seed=2, lr=2)
    rows, _ = table(capsys)
    assert [row["seeds"] for row in rows] == [[0, 1], [2]]


def test_the_newest_run_of_a_seed_counts(capsys):
    # in the order of names, the newest comes neither first nor last
    for score, name in enumerate(["0-20260102-000000", "0-20260102-000000-10", "0-20260102-000000-9"]):
        write_run(f"runs/ppo/{name}", score=score)
    write_run("runs/other", "dqn")
    ((first, _), err) = table(capsys)
    assert first["returns"] == [1.0]
    assert err == (
        "rlpipe: note: 2 runs left out for a newer run of the same seed: "
        "runs/ppo/0-20260102-000000, runs/ppo/0-20260102-000000-9\n"
    )


def test_a_long_list_of_runs_is_cut(capsys):
    for second in range(6):
        write_run(f"runs/ppo/0-20260102-00000{second}")
    ((_,), err) = table(capsys)
    first = ", ".join(f"runs/ppo/0-20260102-00000{each}" for each in range(4))
    assert err == f"rlpipe: note: 5 runs left out for a newer run of the same seed: {first} and 1 more\n"


def test_where_a_name_has_no_time_that_of_the_file_counts(capsys):
    for name, score, written in (("a", 1.0, 2_000_000_000), ("b", 2.0, 1_000_000_000)):
        os.utime(write_run(f"runs/{name}", score=score) / "config.json", (written, written))
    ((row,), err) = table(capsys)
    assert row["returns"] == [1.0]
    assert "1 run left out for a newer run" in err
    write_run("runs/0-20200101-000000", score=3.0)
    assert table(capsys)[0][0]["returns"] == [1.0]
    write_run("runs/0-20350101-000000", score=4.0)
    assert table(capsys)[0][0]["returns"] == [4.0]
    # a seed and eight digits that are no date
    write_run("runs/0-99999999-000000", score=5.0)
    assert table(capsys)[0][0]["returns"] == [4.0]


def test_unfinished_runs_are_left_out(capsys):
    write_run("runs/done/0-20260101-000000", score=1.0)
    write_run("runs/cut/0-20260102-000000", score=2.0, final=False)
    (write_run("runs/early", seed=1) / "evaluations.jsonl").write_text("")
    ((row,), err) = table(capsys)
    assert row["returns"] == [1.0]
    assert err == (
        "rlpipe: note: 2 runs left out, without a final evaluation: runs/cut/0-20260102-000000, runs/early\n"
    )


DAMAGE = {
    "metrics.jsonl": ['{"frames": 1, "sec', '{"frames": 1}\n', "[]\n", "3\n", '{"frames": 1, "seconds": "x"}\n'],
    "evaluations.jsonl": [
        '{"frames": 50176, "seconds": 1.0, "final": true, "returns": [NaN], "lengths": [1]}\n',
        '{"frames": 1, "fi',
        '{"frames": 50176, "final": true, "returns": []}\n',
        "\x00\n",
        "null\n",
    ],
    "config.json": ["", "[]", '{"recipe": "ppo"}', '{"recipe": "ppo", "algorithm": "ppo", "config": {}}'],
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in DAMAGE.items() for text in texts])
def test_damaged_runs_are_left_out(capsys, name, text):
    write_run("runs/good", score=1.0)
    bad = write_run("runs/bad", seed=1)
    with (bad / name).open("w" if name == "config.json" else "a") as stream:
        stream.write(text)
    ((row,), err) = table(capsys)
    assert row["seeds"] == [0]
    assert err == "rlpipe: note: 1 run left out, damaged: runs/bad\n"


@pytest.mark.parametrize("config", ["null", "[]", "3", '"text"', "[[1, 2]]", "{}", '{"seed": null}', '{"seed": 1e999}'])
def test_unfinished_runs_whose_config_is_damaged_are_left_out(capsys, config):
    write_run("runs/good", score=1.0)
    bad = write_run("runs/bad", seed=1, final=False)
    (bad / "config.json").write_text(f'{{"recipe": "ppo", "algorithm": "ppo", "config": {config}}}')
    assert table(capsys)[1] == "rlpipe: note: 1 run left out, damaged: runs/bad\n"


@pytest.mark.parametrize("name", ["metrics.jsonl", "evaluations.jsonl"])
def test_a_run_that_lacks_a_file_is_named(capsys, name):
    write_run("runs/good", score=1.0)
    (write_run("runs/bad", seed=1) / name).unlink()
    assert table(capsys)[1] == "rlpipe: note: 1 run left out, damaged: runs/bad\n"


@pytest.mark.parametrize(
    "described",
    [
        {"recipe": "ppo/of-old", "algorithm": "ppo", "config": {"seed": 0, "env_id": "CartPole-v1"}},
        {"recipe": "ppo", "algorithm": "ppo", "config": {"seed": 0, "env_id": "CartPole-v1", "old": {"a": [1]}}},
        {"recipe": "ppo", "algorithm": "trpo", "config": {**dataclasses.asdict(RECIPES["ppo"].config()), "lr": 9}},
    ],
)
def test_runs_of_other_versions_have_a_row(capsys, described):
    write_run("runs/a", described=described)
    ((row,), err) = table(capsys)
    assert (row["label"], row["env_id"]) == (described["recipe"], "CartPole-v1")
    reason = "because this version does not know the recipe or its settings"
    assert err == f"rlpipe: note: 1 run shown without options, {reason}: runs/a\n"


def test_paths_may_overlap_and_links_may_lead_back(capsys):
    for seed in range(2):
        write_run(f"elsewhere/deep/er/{seed}", seed=seed)
    # a checkpoint's files are no runs, and neither is every config.json
    write_run("elsewhere/deep/er/0/checkpoints/inner", seed=5)
    Path("elsewhere/config.json").write_text("{}")
    Path("runs").mkdir()
    Path("runs/link").symlink_to(Path("elsewhere/deep").absolute())
    Path("elsewhere/deep/back").symlink_to(Path("elsewhere").absolute())
    for paths in ([], ["elsewhere"], ["elsewhere/deep/er/1", "runs", "elsewhere"], ["elsewhere/deep/er/0"] * 2):
        rows, err = table(capsys, *paths)
        assert [row["seeds"] for row in rows] == ([[0]] if len(paths) == 2 else [[0, 1]])
        assert err == ""


def test_each_folder_is_looked_into_once(monkeypatch):
    from rlpipe.scripts.reports.groups import find_runs

    looked = []
    real = os.path.realpath
    write_run("runs/deep/0")
    Path("runs/deep/back").symlink_to(Path("runs").absolute())
    monkeypatch.setattr(
        "rlpipe.scripts.reports.groups.os.path.realpath", lambda path: (looked.append(path), real(path))[1]
    )
    assert find_runs([Path("runs")]) == [Path("runs/deep/0")]
    assert [str(path) for path in looked] == ["runs", "runs/deep", "runs/deep/0", "runs/deep/back"]


def test_refusals(capsys):
    assert "no run found in runs, which is not a folder; name a run folder" in refused(capsys)
    Path("runs").mkdir()
    assert "no run found in runs; name a run folder or a folder that contains some, or train one" in refused(capsys)
    write_run("runs/a", final=False)
    assert "no finished run found in runs; 1 run left out, without a final evaluation: runs/a" in refused(capsys)
    write_run("runs/b")
    assert "no run found in rnus, which is not a folder" in refused(capsys, "runs", "rnus")
    assert "plot is curve.pdf; expected a name that ends in .png" in refused(capsys, "--plot", "curve.pdf")
    assert "no option is called --plto; did you mean --plot?" in refused(capsys, "--plto", "x.png")
    assert "plot no/x.png cannot be written: No such file" in refused(capsys, "--plot", "no/x.png")
    Path("mine.png").write_text("mine")
    assert "plot mine.png exists already; nothing was overwritten" in refused(capsys, "--plot", "mine.png")
    assert Path("mine.png").read_text() == "mine"


def test_seconds_of_an_evaluation_between_two_lines_of_metrics():
    from rlpipe.scripts.reports.run_results import read_finished

    folder = write_run("runs/a", frames=400, seconds=4.0, score=8.0)
    row = {"frames": 400, "seconds": 4.0}
    (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    assert read_finished(folder).curve.tolist() == [[200.0, 2.0, 4.0], [400.0, 4.0, 8.0]]
    (folder / "metrics.jsonl").write_text("")
    with pytest.raises(LookupError):
        read_finished(folder)


def test_plot(capsys, monkeypatch):
    import matplotlib.figure

    figures = []
    write = matplotlib.figure.Figure.savefig
    monkeypatch.setattr(
        matplotlib.figure.Figure, "savefig", lambda self, *a, **k: (figures.append(self), write(self, *a, **k))[1]
    )
    # the second stops early, and keeps its last return
    write_run("runs/a", seed=0, score=8.0, frames=400, seconds=4.0)
    write_run("runs/b", seed=1, score=2.0, frames=200, seconds=1.0)
    write_run("runs/c", score=-80.0, env_id="Acrobot-v1")
    write_run("runs/d", score=-90.0, env_id="Acrobot-v1", lr=0.5)
    assert run(["table", "runs", "--plot", "x.png"]) == 0
    assert capsys.readouterr().out.startswith("| recipe |")
    assert Path("x.png").read_bytes().startswith(b"\x89PNG")
    (figure,) = figures
    left, right = figure.axes[:2]
    assert [axes.get_title() for axes in figure.axes] == ["CartPole-v1"] * 2 + ["Acrobot-v1"] * 2
    assert [len(axes.lines) for axes in figure.axes] == [1, 1, 2, 2]
    # evaluations at half and at the end: returns 4 and 8 at frames 200 and 400; 1 and 2 at 100 and 200
    assert left.lines[0].get_xydata().tolist() == [[200.0, 3.0], [400.0, 5.0]]
    # at seconds 2 and 4; 0.5 and 1
    assert right.lines[0].get_xydata().tolist() == [[2.0, 3.0], [4.0, 5.0]]
    band = left.collections[0].get_paths()[0].get_extents()
    assert (band.ymin, band.ymax) == (2.0, 8.0)
    (legend,) = figure.legends
    labels = ["ppo", "ppo --env-id Acrobot-v1", "ppo --env-id Acrobot-v1 --lr 0.5"]
    assert [text.get_text() for text in legend.get_texts()] == labels


def test_frame_counts_beyond_64_bits_are_drawn(capsys):
    write_run("runs/a", frames=10**30)
    write_run("runs/b", seed=1, frames=10**25)
    assert run(["table", "runs", "--plot", "x.png"]) == 0
    assert Path("x.png").exists()


def test_trained_runs(capsys):
    quick = ["--total-frames", "256", "--eval-every", "128", "--eval-episodes", "2", "--final-eval-episodes", "3"]
    small = ["--num-envs", "4", "--rollout-steps", "16", "--minibatch-size", "32", "--epochs", "1", "--hidden", "8"]
    trained = []
    for seed in ("3", "1"):
        assert run(["train", "ppo", *quick, *small, "--seed", seed, "--json", "--quiet"]) == 0
        trained.insert(0, json.loads(capsys.readouterr().out))
    ((row,), err) = table(capsys, "--plot", "x.png")
    assert err == ""
    assert (row["seeds"], row["frames"]) == ([1, 3], [256, 256])
    assert row["returns"] == pytest.approx([summary["evaluation"]["mean"] for summary in trained])
    assert row["seconds"] == pytest.approx([summary["seconds"] for summary in trained], abs=1e-3)
    for words in ("--total-frames 256", "--minibatch-size 32", "--hidden 8"):
        assert words in row["label"]
    assert "--seed" not in row["label"]
    assert Path("x.png").exists()


def test_the_script_runs():
    write_run("runs/a")
    script = str(ROOT / "scripts" / "table.py")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 3


def test_a_run_of_an_older_version_is_of_the_same_row(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / str(seed), seed=seed)
    path = tmp_path / "0" / "config.json"
    described = json.loads(path.read_text())
    del described["config"]["eval_envs"]
    path.write_text(json.dumps(described))
    rows, notes = collect([tmp_path])
    assert [(row.label, len(row.runs)) for row in rows] == [("ppo", 2)]
    assert not notes
